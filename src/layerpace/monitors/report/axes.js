// Scales, ticks and numbers.

// A number to read: 4 significant digits.
function told(x) {
  if (Number.isNaN(x) || x === undefined) return 'not measured';
  if (!Number.isFinite(x)) return 'not finite';
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (size >= 1e-3 && size < 1e4) return String(Number(x.toPrecision(4)));
  return x.toExponential(3).replace('e+', 'e').replace(/\.?0+e/, 'e');
}

function tickLabel(x, gap) {
  if (x === 0) return '0';
  const size = Math.abs(x);
  if (size >= 1e-3 && size < 1e5) {
    return String(Number(x.toFixed(Math.max(0, Math.min(6, 1 - Math.floor(Math.log10(gap)))))));
  }
  return x.toExponential(1).replace('e+', 'e').replace('.0e', 'e');
}

function stepLabel(x) {
  if (x >= 1e6) return `${Number((x / 1e6).toFixed(2))}M`;
  return x >= 1e4 ? `${Number((x / 1e3).toFixed(2))}k` : String(Math.round(x));
}

// 1, 2 or 5 times a power of ten, so that there are about `count` in the span.
function spacing(span, count) {
  const rough = span / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(rough));
  const times = [1, 2, 5, 10].find((n) => n * power >= rough);
  return times * power;
}

function linearTicks(low, high, count) {
  const gap = spacing(high - low, count);
  const ticks = [];
  for (let k = Math.ceil(low / gap - 1e-9); k * gap <= high + 1e-9 * gap; k++) ticks.push({ at: k * gap, gap });
  return ticks;
}

function logTicks(low, high, count) {
  const decades = Math.log10(high / low);
  const ticks = [];
  if (decades < 1.2) {
    const sparse = linearTicks(low, high, count).filter((tick) => tick.at > 0);
    if (sparse.length >= 2) return sparse;
  }
  const every = Math.max(1, Math.ceil(decades / count));
  const within = decades <= count / 3 ? [1, 2, 5] : decades <= count / 2 ? [1, 3] : [1];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++) {
    if (power % every) continue;
    for (const n of within) {
      const at = n * 10 ** power;
      if (at >= low * 0.999 && at <= high * 1.001) ticks.push({ at, gap: at });
    }
  }
  return ticks;
}

// The y axis over values in [low, high]; with log, what is not above zero goes to a strip at the bottom.
function valueAxis(low, high, log, top, bottom, count) {
  if (!(low <= high)) [low, high] = log ? [0.1, 1] : [0, 1];
  if (log) {
    low = Math.max(low, high * 1e-12);
    if (high / low < 1.05) [low, high] = [low / 1.5, high * 1.5];
    const pad = (high / low) ** 0.04;
    low /= pad;
    high *= pad;
    const a = Math.log(low);
    const b = Math.log(high);
    return {
      low, high, log, ticks: logTicks(low, high, count),
      y: (value) => (value >= low ? bottom - ((Math.log(value) - a) / (b - a)) * (bottom - top) : null),
    };
  }
  if (high - low < 1e-9 * Math.max(Math.abs(high), 1e-30)) {
    const pad = Math.abs(high) * 0.1 || 0.5;
    [low, high] = [low - pad, high + pad];
  }
  const pad = (high - low) * 0.04;
  [low, high] = [low < 0 || low - pad >= 0 ? low - pad : 0, high + pad];
  return {
    low, high, log, ticks: linearTicks(low, high, count),
    y: (value) => bottom - ((value - low) / (high - low)) * (bottom - top),
  };
}

// The end of a long name, which tells layers apart.
const shortened = (name, most) => (name.length <= most ? name : `…${name.slice(1 - most)}`);
