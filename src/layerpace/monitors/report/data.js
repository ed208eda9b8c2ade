// The curves, unpacked from the page's JSON when a chart first needs them.

const page = JSON.parse(document.getElementById('data').textContent);

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes.buffer;
}

const floats = (text) => new Float32Array(bytesOf(text));

// Curves of one quantity: [{xs, ys}], one for each column; xs are steps, ys values: NaN a gap, Infinity not finite.
function unpack(packed) {
  const steps = new Float64Array(bytesOf(packed.steps));
  const counts = new Int32Array(bytesOf(packed.counts));
  const places = packed.wide ? new Int32Array(bytesOf(packed.places)) : new Uint16Array(bytesOf(packed.places));
  const values = floats(packed.values);
  const xs = new Float64Array(places.length);
  for (let i = 0; i < places.length; i++) xs[i] = steps[places[i]];
  const curves = [];
  let begin = 0;
  for (const count of counts) {
    curves.push({ xs: xs.subarray(begin, begin + count), ys: values.subarray(begin, begin + count) });
    begin += count;
  }
  return curves;
}

const unpacked = new Map();

// {layer: {xs, ys}} of a quantity of a run, layers by their place in page.layers; empty where it was not measured.
function curvesOf(run, quantity) {
  const key = `${run}/${quantity}`;
  if (!unpacked.has(key)) {
    const packed = page.runs[run].quantities[quantity];
    const curves = new Map();
    if (packed) {
      unpack(packed).forEach((curve, column) => {
        if (curve.ys.length) curves.set(page.runs[run].layers[column], curve);
      });
    }
    unpacked.set(key, curves);
  }
  return unpacked.get(key);
}

function scalarOf(run, name) {
  const key = `${run}//${name}`;
  if (!unpacked.has(key)) {
    const packed = page.runs[run].scalars[name];
    unpacked.set(key, packed ? unpack(packed)[0] : null);
  }
  return unpacked.get(key);
}

// {first, last, least, largest} of all records: Map from layer to value.
function endsOf(run, quantity) {
  const packed = page.runs[run].quantities[quantity];
  const ends = {};
  for (const name of ['first', 'last', 'least', 'largest']) {
    ends[name] = new Map();
    if (packed) floats(packed[name]).forEach((value, column) => ends[name].set(page.runs[run].layers[column], value));
  }
  return ends;
}

function clippedOf(run) {
  const shares = new Map();
  const packed = page.runs[run].clipped;
  if (packed) floats(packed).forEach((value, column) => shares.set(page.runs[run].layers[column], value));
  return shares;
}

// Index of the entry of sorted xs that is nearest to x.
function nearest(xs, x) {
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle;
    else high = middle;
  }
  return high >= 0 && Math.abs(xs[high] - x) < Math.abs(xs[low] - x) ? high : low;
}

// Exponential moving average without the bias of its start; gaps stay gaps. The weight is that for 200 points: a curve
// of few points is smoothed over the same share of the training, so hardly at all.
function smoothed(curve, strength) {
  if (!strength) return curve;
  const weight = strength ** (200 / curve.ys.length);
  if (weight < 0.05) return curve;
  const ys = new Float32Array(curve.ys.length);
  let sum = 0;
  let norm = 0;
  curve.ys.forEach((y, i) => {
    if (Number.isFinite(y)) {
      sum = weight * sum + (1 - weight) * y;
      norm = weight * norm + (1 - weight);
      ys[i] = sum / norm;
    } else ys[i] = y;
  });
  return { xs: curve.xs, ys };
}
