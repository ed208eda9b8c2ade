// Layer x step as colours, for many layers: dark is low, light is high.

function heatRange(plot) {
  const log = plot.panel.log();
  let low = Infinity;
  let high = -Infinity;
  for (const { curve } of plot.together()) {
    const [begin, end] = plot.window(curve);
    for (let i = begin; i < end; i++) {
      const y = curve.ys[i];
      if (!Number.isFinite(y) || (log && y <= 0)) continue;
      if (y < low) low = y;
      if (y > high) high = y;
    }
  }
  if (!(low <= high)) [low, high] = [log ? 0.1 : 0, 1];
  if (log) low = Math.max(low, high * 1e-12);
  if (high - low <= 1e-9 * Math.abs(high)) [low, high] = log ? [low / 1.5, high * 1.5] : [low - 0.5, high + 0.5];
  return { low, high, log };
}

// Of a value that is finite: 0..1.
function heatPlace({ low, high, log }, value) {
  if (!log) return (value - low) / (high - low);
  return value <= low ? 0 : Math.log(value / low) / Math.log(high / low);
}

// One value a pixel column: the highest of those that fall on it, held until the next; NaN within gaps.
function heatRow(plot, curve, columns) {
  const row = new Float32Array(columns).fill(NaN);
  const { left, right } = plot.area;
  const column = (step) => Math.round(((plot.x(step) - left) / (right - left)) * (columns - 1));
  let begun = -1;
  let held = NaN;
  const usual = curve.xs.length > 1 ? (column(curve.xs[curve.xs.length - 1]) - column(curve.xs[0])) / (curve.xs.length - 1) : 1;
  const [begin, end] = plot.window(curve);
  for (let i = begin; i < end; i++) {
    const at = column(curve.xs[i]);
    for (let k = Math.max(0, begun + 1); k < Math.min(at, columns); k++) if (begun >= 0) row[k] = held;
    const y = curve.ys[i];
    if (at >= 0 && at < columns) row[at] = at === begun && row[at] > y ? row[at] : y;
    begun = Math.max(at, 0);
    held = y;
  }
  for (let k = begun + 1; k <= Math.min(columns - 1, begun + usual); k++) if (begun >= 0) row[k] = held;
  return row;
}

function drawHeat(plot, pen, ink) {
  const { left, right, top, bottom } = plot.area;
  const rows = plot.shown.length;
  if (!rows) return;
  const range = heatRange(plot);
  const columns = Math.max(2, Math.round(right - left));
  const image = new ImageData(columns, rows);
  const wrong = dark() ? [255, 90, 70] : [215, 40, 30];
  plot.shown.forEach((line, place) => {
    heatRow(plot, line.curve, columns).forEach((value, k) => {
      if (Number.isNaN(value)) return;
      const rgb = value === Infinity ? wrong : heatColour(heatPlace(range, value));
      image.data.set([...rgb, 255], 4 * (place * columns + k));
    });
  });
  const cells = document.createElement('canvas');
  cells.width = columns;
  cells.height = rows;
  cells.getContext('2d').putImageData(image, 0, 0);
  pen.fillStyle = ink.grid;
  pen.fillRect(left, top, right - left, bottom - top);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(cells, left, top, right - left, bottom - top);
  const high = (bottom - top) / rows;
  const pinned = plot.shown.map((line, place) => (plot.stands(line) ? place : -1)).filter((place) => place >= 0);
  const every = Math.max(1, Math.ceil(13 / high));
  const named = [...Array(rows).keys()].filter((place) => place % every === 0
    && pinned.every((other) => other === place || Math.abs(other - place) * high >= 13));
  pen.textAlign = 'right';
  pen.textBaseline = 'middle';
  const most = Math.floor((left - 8) / 6.4);
  for (const place of [...named, ...pinned]) {
    pen.fillStyle = ink.text;
    pen.font = `${pinned.includes(place) ? '600 ' : ''}11px system-ui, sans-serif`;
    const y = top + (place + 0.5) * high;
    pen.fillText(shortened(plot.shown[place].name, most), left - 6, y, left - 8);
  }
  pen.strokeStyle = ink.text;
  pen.lineWidth = 1.5;
  for (const place of pinned) pen.strokeRect(left + 0.5, top + place * high, right - left - 1, Math.max(3, high));
  pen.font = '12px system-ui, sans-serif';
  heatKey(plot, pen, ink, range);
}

// The scale of the colours, below the map at the left.
function heatKey(plot, pen, ink, range) {
  const y = plot.size.height - 12;
  const width = 84;
  const label = (x) => told(Number(x.toPrecision(2)));
  pen.fillStyle = ink.text;
  pen.textAlign = 'left';
  pen.textBaseline = 'alphabetic';
  const from = label(range.low);
  const begin = 4 + pen.measureText(from).width + 6;
  pen.fillText(from, 4, y + 9);
  for (let k = 0; k < width; k++) {
    pen.fillStyle = css(heatColour(k / (width - 1)));
    pen.fillRect(begin + k, y, 1.5, 9);
  }
  pen.fillStyle = ink.text;
  pen.fillText(`${label(range.high)}${range.log ? ' (log)' : ''}`, begin + width + 8, y + 9);
}
