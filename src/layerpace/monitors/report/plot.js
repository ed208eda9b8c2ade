// One drawing: lines or a heat map on a canvas, with the cursor above it as SVG.

// What all drawings share. x: the steps in view, null: all; pinned: layers in order of pinning; cursor: {plot, line, index}.
const state = {
  x: null, wanted: null, pinned: [], cursor: null, shade: null, view: 'one', run: 0, layer: 0, runs: new Set(), smooth: 0.6,
};
const plots = [];

function svg(name, attributes, parent) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

class Plot {
  // panel: {unit, label, log, heat, cells}; lines: [{layer, run, name, colour, dash, curve, raw, low, high}], colour() as
  // it follows the theme; every line has one of `layer` and `run` as what tells it from the others.
  constructor(panel, lines, heading) {
    this.panel = panel;
    this.lines = lines;
    this.heading = heading;
    this.box = document.createElement('div');
    this.box.className = 'plot';
    this.box.tabIndex = 0;
    this.box.setAttribute('role', 'application');
    this.box.setAttribute('aria-roledescription', 'chart');
    this.box.setAttribute('aria-label', `${panel.label}${heading ? `, ${heading}` : ''}: ${lines.length} `
      + `line${lines.length === 1 ? '' : 's'}. Arrow keys read values.`);
    this.canvas = document.createElement('canvas');
    this.over = svg('svg', { 'aria-hidden': 'true' });
    this.box.append(this.canvas, this.over);
    this.dirty = true;
  }

  visible() {
    return state.wanted && this.lines.some((line) => line.layer >= 0)
      ? this.lines.filter((line) => line.layer < 0 || state.wanted.has(line.layer))
      : this.lines;
  }

  span() {
    if (state.x) return state.x;
    const [low, high] = wholeSpan();
    return low < high ? [low, high] : [low - 1, low + 1];
  }

  // Places everything for a width and height in CSS pixels.
  layout() {
    const heat = this.panel.heat();
    const width = printing ? 440 : this.box.clientWidth;
    const height = printing ? (this.box.classList.contains('tall') ? 352 : 242) : this.box.clientHeight;
    const left = heat ? Math.min(150, Math.max(70, width * 0.28)) : 52;
    const area = { left, right: width - (heat ? 14 : 12), top: 12, bottom: height - 36 };
    const [from, to] = this.span();
    this.size = { width, height };
    this.area = area;
    this.x = (step) => area.left + ((step - from) / (to - from)) * (area.right - area.left);
    this.step = (x) => from + ((x - area.left) / (area.right - area.left)) * (to - from);
    this.range = [from, to];
    this.shown = this.visible();
    if (!heat) this.axis = this.fit(area);
  }

  // Of all drawings of the panel, so that runs side by side have one scale.
  together() {
    return this.panel.plots.flatMap((plot) => plot.visible());
  }

  // The y axis that shows all that is in view.
  fit(area) {
    const log = this.panel.log();
    let low = Infinity;
    let high = -Infinity;
    this.zeros = false;
    const take = (curve) => {
      const [begin, end] = this.window(curve);
      for (let i = begin; i < end; i++) {
        const y = curve.ys[i];
        if (!Number.isFinite(y)) continue;
        if (log && y <= 0) this.zeros = true;
        else {
          if (y < low) low = y;
          if (y > high) high = y;
        }
      }
    };
    for (const line of this.together()) for (const curve of [line.curve, line.raw, line.low, line.high]) if (curve) take(curve);
    const strip = log && (this.zeros || high / low > 1e12) ? 14 : 0;
    this.zeros = strip > 0;
    return valueAxis(low, high, log, area.top, area.bottom - strip, (area.bottom - area.top) / 34);
  }

  // [begin, end) of the points in view, with one more on either side.
  window(curve) {
    const [from, to] = this.range;
    const { xs } = curve;
    if (!xs.length || (xs[0] >= from && xs[xs.length - 1] <= to)) return [0, xs.length];
    return [Math.max(0, nearest(xs, from) - 1), Math.min(xs.length, nearest(xs, to) + 2)];
  }

  y(value) {
    if (value === Infinity) return this.area.top;
    return this.axis.y(value) ?? this.area.bottom - 5;
  }

  draw() {
    this.dirty = false;
    this.layout();
    const { width, height } = this.size;
    if (width < 40) return;
    const scale = printing ? 3 : Math.min(2, Math.max(1, devicePixelRatio));
    this.canvas.width = Math.round(width * scale);
    this.canvas.height = Math.round(height * scale);
    this.over.setAttribute('viewBox', `0 0 ${width} ${height}`);
    const pen = this.canvas.getContext('2d');
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    const ink = inks();
    pen.fillStyle = ink.paper;
    pen.fillRect(0, 0, width, height);
    pen.font = '12px system-ui, sans-serif';
    if (this.panel.heat()) drawHeat(this, pen, ink);
    else this.drawLines(pen, ink);
    this.drawSteps(pen, ink);
    this.point();
  }

  // The steps that a finding tells of.
  drawShade(pen, ink) {
    if (!state.shade || !this.lines.some((line) => line.run === state.shade.run)) return;
    const { left, right, top, bottom } = this.area;
    const a = Math.max(left, this.x(state.shade.steps[0]) - 1);
    const b = Math.min(right, this.x(state.shade.steps[1]) + 1);
    pen.fillStyle = ink.shade;
    if (b > a) pen.fillRect(a, top, b - a, bottom - top);
  }

  drawSteps(pen, ink) {
    const { left, right, bottom } = this.area;
    const [from, to] = this.range;
    pen.strokeStyle = ink.axis;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(left, bottom + 0.5);
    pen.lineTo(right, bottom + 0.5);
    pen.stroke();
    pen.fillStyle = ink.text;
    pen.textAlign = 'center';
    pen.textBaseline = 'top';
    for (const { at } of linearTicks(from, to, (right - left) / 62)) {
      if (at % 1) continue;
      pen.fillRect(this.x(at), bottom, 1, 4);
      const text = stepLabel(at);
      const half = pen.measureText(text).width / 2;
      pen.fillText(text, Math.min(this.size.width - half - 1, this.x(at)), bottom + 7);
    }
    pen.textAlign = 'right';
    pen.textBaseline = 'alphabetic';
    pen.fillText('step', right, this.size.height - 3);
  }

  drawLines(pen, ink) {
    const { left, right, top, bottom } = this.area;
    pen.textAlign = 'right';
    pen.textBaseline = 'middle';
    for (const { at, gap } of this.axis.ticks) {
      const y = this.axis.y(at);
      pen.fillStyle = ink.grid;
      pen.fillRect(left, Math.round(y), right - left, 1);
      pen.fillStyle = ink.text;
      pen.fillText(tickLabel(at, gap), left - 6, y);
    }
    if (this.zeros) {
      pen.fillStyle = ink.text;
      pen.fillText('0', left - 6, bottom - 5);
      pen.fillStyle = ink.grid;
      pen.fillRect(left, bottom - 13, right - left, 1);
    }
    this.drawShade(pen, ink);
    pen.save();
    pen.beginPath();
    pen.rect(left, top - 4, right - left + 2, bottom - top + 8);
    pen.clip();
    const pinned = this.shown.filter((line) => this.stands(line));
    const rest = this.shown.filter((line) => !pinned.includes(line));
    const many = rest.length > 60;
    pen.lineJoin = 'round';
    for (const line of [...rest, ...pinned]) {
      const front = pinned.includes(line);
      const faded = pinned.length > 0 && !front;
      const colour = faded ? ink.faded : line.colour();
      if (line.low && (front || this.shown.length <= 6)) this.drawBand(pen, line, line.colour());
      if (line.raw && !faded) this.stroke(pen, line.raw, colour, 1, [], 0.3);
      this.stroke(pen, line.curve, colour, front ? 2.4 : many ? 1 : 1.5, line.dash ?? [], many && !front ? 0.75 : 1);
    }
    pen.restore();
    this.drawWrong(pen, ink);
    if (pinned.length && pinned.length <= 8) this.drawNames(pen, ink, pinned);
  }

  stands(line) {
    return line.layer >= 0 && state.pinned.includes(line.layer) && state.view !== 'over';
  }

  path(pen, curve, from, to) {
    let up = true;
    for (let i = from; i < to; i++) {
      const y = curve.ys[i];
      if (!Number.isFinite(y)) {
        up = true;
        continue;
      }
      if (up) pen.moveTo(this.x(curve.xs[i]), this.y(y));
      else pen.lineTo(this.x(curve.xs[i]), this.y(y));
      if (up && !Number.isFinite(curve.ys[i + 1])) pen.lineTo(this.x(curve.xs[i]) + 0.7, this.y(y));
      up = false;
    }
  }

  stroke(pen, curve, colour, width, dash, alpha) {
    pen.globalAlpha = alpha;
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash);
    pen.beginPath();
    this.path(pen, curve, ...this.window(curve));
    pen.stroke();
    pen.setLineDash([]);
    pen.globalAlpha = 1;
  }

  drawBand(pen, line, colour) {
    pen.globalAlpha = 0.18;
    pen.fillStyle = colour;
    pen.beginPath();
    const points = (curve) => [...curve.xs].map((x, i) => [x, curve.ys[i]]).filter((point) => Number.isFinite(point[1]));
    [...points(line.low), ...points(line.high).reverse()].forEach(([x, y], i) =>
      i ? pen.lineTo(this.x(x), this.y(y)) : pen.moveTo(this.x(x), this.y(y)));
    pen.fill();
    pen.globalAlpha = 1;
  }

  // A triangle at the upper edge for what was measured and is not finite; one for many at the same place.
  drawWrong(pen, ink) {
    const taken = new Map();
    for (const { curve } of this.shown) {
      const [begin, end] = this.window(curve);
      for (let i = begin; i < end; i++) {
        const x = this.x(curve.xs[i]);
        if (curve.ys[i] === Infinity && x >= this.area.left - 1 && x <= this.area.right + 1) taken.set(Math.round(x / 7), x);
      }
    }
    if (!taken.size) return;
    pen.fillStyle = ink.wrong;
    for (const x of taken.values()) {
      pen.beginPath();
      pen.moveTo(x, this.area.top - 7);
      pen.lineTo(x + 4, this.area.top + 1);
      pen.lineTo(x - 4, this.area.top + 1);
      pen.fill();
    }
    const first = Math.min(...taken.values());
    const left = first > (this.area.left + this.area.right) / 2;
    pen.textAlign = left ? 'right' : 'left';
    pen.textBaseline = 'top';
    this.halo(pen, ink, 'not finite', left ? first - 7 : first, this.area.top + 4);
  }

  // Names of the pinned at the end of their lines, moved apart.
  drawNames(pen, ink, pinned) {
    const spots = [];
    for (const line of pinned) {
      const [begin, end] = this.window(line.curve);
      let i = end - 1;
      while (i > begin && (!Number.isFinite(line.curve.ys[i]) || line.curve.xs[i] > this.range[1])) i--;
      if (i >= 0 && Number.isFinite(line.curve.ys[i])) spots.push({ line, y: this.y(line.curve.ys[i]) - 8 });
    }
    spots.sort((a, b) => a.y - b.y);
    spots.forEach((spot, k) => {
      spot.y = Math.max(spot.y, k ? spots[k - 1].y + 14 : this.area.top + 6);
    });
    for (let k = spots.length - 1, floor = this.area.bottom - 6; k >= 0; k--, floor = spots[k + 1].y - 14) {
      spots[k].y = Math.min(spots[k].y, floor);
    }
    pen.textAlign = 'right';
    pen.textBaseline = 'middle';
    for (const { line, y } of spots) this.halo(pen, ink, shortened(line.name, 30), this.area.right - 2, y);
  }

  halo(pen, ink, text, x, y) {
    pen.lineWidth = 4;
    pen.lineJoin = 'round';
    pen.strokeStyle = ink.paper;
    pen.strokeText(text, x, y);
    pen.fillStyle = ink.text;
    pen.fillText(text, x, y);
  }

  // The line and point nearest to a place in the drawing: {line, index}, or null.
  find(px, py) {
    const heat = this.panel.heat();
    let best = null;
    for (const [place, line] of this.shown.entries()) {
      const { xs, ys } = line.curve;
      if (!xs.length) continue;
      const middle = nearest(xs, this.step(px));
      const from = heat ? this.rowY(place) : null;
      for (let i = Math.max(0, middle - 3); i <= Math.min(xs.length - 1, middle + 3); i++) {
        if (Number.isNaN(ys[i])) continue;
        const dx = this.x(xs[i]) - px;
        if (i !== middle && Math.abs(dx) > 8 && Number.isFinite(ys[middle])) continue;
        const dy = (heat ? from : this.y(ys[i])) - py;
        const distance = Math.hypot(dx * 0.7, dy) * (this.stands(line) ? 0.6 : 1);
        if (!best || distance < best.distance) best = { line, index: i, distance };
      }
    }
    return best;
  }

  rowY(place) {
    return this.area.top + ((place + 0.5) / this.shown.length) * (this.area.bottom - this.area.top);
  }

  // Shows the cursor: the step on all charts, the line on those that have it.
  point() {
    this.over.replaceChildren();
    const at = state.cursor;
    if (!at || printing || !this.area || this.dirty) return;
    const x = this.x(at.line.curve.xs[at.index]);
    const { left, right, top, bottom } = this.area;
    if (x >= left - 1 && x <= right + 1) svg('line', { x1: x, x2: x, y1: top, y2: bottom, class: 'rule' }, this.over);
    const place = this.shown.findIndex((line) => line.layer === at.line.layer && (line.layer >= 0 || line.run === at.line.run)
      && (state.view !== 'over' || line.run === at.line.run));
    if (place < 0) return;
    const line = this.shown[place];
    if (this.panel.heat()) {
      const high = (bottom - top) / this.shown.length;
      svg('rect', { x: left, width: right - left, y: this.rowY(place) - Math.max(3, high / 2), height: Math.max(6, high), class: 'row' }, this.over);
      if (at.plot === this) svg('circle', { cx: x, cy: this.rowY(place), r: 4.5, class: 'spot' }, this.over);
      return;
    }
    const track = { d: '', moveTo(a, b) { this.d += `M${a.toFixed(1)} ${b.toFixed(1)}`; }, lineTo(a, b) { this.d += `L${a.toFixed(1)} ${b.toFixed(1)}`; } };
    this.path(track, line.curve, ...this.window(line.curve));
    const frame = { x: left, y: top - 4, width: right - left + 2, height: bottom - top + 8 };
    const inside = svg('svg', { ...frame, viewBox: `${frame.x} ${frame.y} ${frame.width} ${frame.height}` }, this.over);
    const drawn = svg('path', { d: track.d, class: 'track' }, inside);
    drawn.style.stroke = line.colour();
    const y = at.plot === this ? this.y(line.curve.ys[at.index]) : null;
    if (y !== null) svg('circle', { cx: x, cy: y, r: 4.5, class: 'spot' }, this.over);
  }
}

// Draws what is dirty, first what can be seen, without holding up the page for long.
let asked = 0;
function redraw(which = plots) {
  for (const plot of which) plot.dirty = true;
  if (!asked) asked = requestAnimationFrame(work);
}

function work() {
  asked = 0;
  const begin = performance.now();
  const seen = (plot) => {
    const box = plot.box.getBoundingClientRect();
    return box.bottom > -200 && box.top < innerHeight + 200;
  };
  const waiting = plots.filter((plot) => plot.dirty);
  const order = [...waiting.filter(seen), ...waiting.filter((plot) => !seen(plot))];
  for (const plot of order) {
    plot.draw();
    if (performance.now() - begin > 40) break;
  }
  if (plots.some((plot) => plot.dirty)) asked = requestAnimationFrame(work);
  else document.documentElement.dataset.drawn = performance.now().toFixed(0);
}
