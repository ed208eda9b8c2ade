// Mouse, pen and touch on a drawing.

const tip = document.getElementById('tip');

function setSpan(from, to) {
  const [first, last] = wholeSpan();
  const wide = Math.max(Math.min(2, last - first), Math.min(to - from, last - first));
  const begin = Math.min(Math.max(from, first), last - wide);
  state.x = wide >= (last - first) * 0.999 ? null : [begin, begin + wide];
  document.documentElement.dataset.zoomed = state.x ? 'yes' : 'no';
  redraw();
}

function zoomAround(step, factor) {
  const [from, to] = state.x ?? wholeSpan();
  setSpan(step - (step - from) * factor, step + (to - step) * factor);
}

// Steps of all that is shown.
let whole = null;
function wholeSpan() {
  if (!whole) {
    whole = [Infinity, -Infinity];
    for (const { curve: { xs } } of plots.flatMap((plot) => plot.lines)) {
      if (xs.length) whole = [Math.min(whole[0], xs[0]), Math.max(whole[1], xs[xs.length - 1])];
    }
  }
  return whole;
}

function setCursor(plot, found) {
  state.cursor = found && { plot, ...found };
  for (const other of plots) other.point();
}

function words(plot, line, index) {
  const parts = [line.name, `step ${line.curve.xs[index]}`, `${plot.panel.label}: ${told(line.curve.ys[index])}`];
  if (line.raw) parts.push(`unsmoothed ${told(line.raw.ys[index])}`);
  if (line.clipped !== undefined) parts.push(`clipped in ${Math.round(100 * line.clipped)}% of its records`);
  if (line.layer >= 0 && page.runs.length > 1) parts.splice(1, 0, page.runs[line.run].name);
  return parts;
}

function showTip(plot, found) {
  if (!found) {
    tip.hidden = true;
    return;
  }
  const [name, ...rest] = words(plot, found.line, found.index);
  tip.replaceChildren();
  const head = document.createElement('b');
  head.textContent = name;
  head.style.borderColor = found.line.colour();
  tip.append(head);
  for (const part of rest) {
    const row = document.createElement('span');
    row.textContent = part;
    tip.append(row);
  }
  tip.hidden = false;
  const box = plot.box.getBoundingClientRect();
  const scale = box.width / plot.size.width;
  const x = box.left + plot.x(found.line.curve.xs[found.index]) * scale;
  const shownAt = plot.panel.heat() ? plot.rowY(plot.shown.indexOf(found.line)) : plot.y(found.line.curve.ys[found.index]);
  const y = box.top + shownAt * scale;
  const { width, height } = tip.getBoundingClientRect();
  const left = x + 14 + width > document.documentElement.clientWidth - 4 ? x - 14 - width : x + 14;
  tip.style.left = `${Math.max(4, left) + scrollX}px`;
  tip.style.top = `${(y - height - 12 < 4 ? y + 14 : y - height - 12) + scrollY}px`;
}

function hidePointer() {
  setCursor(null, null);
  showTip(null, null);
}

function pin(layer) {
  if (layer < 0) return;
  state.pinned = state.pinned.includes(layer) ? state.pinned.filter((other) => other !== layer) : [...state.pinned, layer];
  pinsChanged();
}

function listen(plot) {
  const { box } = plot;
  const fingers = new Map();
  let drag = null; // {x, moved, pan, span}
  let pinch = null; // {steps: of both fingers}
  const place = (event) => {
    const frame = box.getBoundingClientRect();
    return [event.clientX - frame.left, event.clientY - frame.top];
  };
  const hover = (event) => {
    const found = plot.find(...place(event));
    setCursor(plot, found);
    showTip(plot, found);
  };

  box.addEventListener('pointerdown', (event) => {
    if (event.button) return;
    fingers.set(event.pointerId, place(event)[0]);
    box.setPointerCapture(event.pointerId);
    if (fingers.size === 2) {
      const [a, b] = [...fingers.values()];
      pinch = { steps: [plot.step(a), plot.step(b)] };
      drag = null;
      return;
    }
    const [x] = place(event);
    drag = { x, from: event.clientX, moved: false, touch: event.pointerType === 'touch', pan: event.shiftKey, span: state.x ?? wholeSpan() };
    if (drag.touch) hover(event);
  });

  box.addEventListener('pointermove', (event) => {
    const [x] = place(event);
    if (fingers.has(event.pointerId)) fingers.set(event.pointerId, x);
    if (pinch && fingers.size === 2) {
      const [a, b] = [...fingers.values()];
      if (Math.abs(a - b) < 12) return;
      const [stepA, stepB] = pinch.steps;
      const each = (stepB - stepA) / (b - a);
      const { left, right } = plot.area;
      if (each > 0) setSpan(stepA + (left - a) * each, stepA + (right - a) * each);
      plot.layout();
      return;
    }
    if (!drag || drag.touch) {
      hover(event);
      return;
    }
    if (Math.abs(event.clientX - drag.from) > 4) drag.moved = true;
    if (!drag.moved) return;
    const { left, right } = plot.area;
    if (drag.pan) {
      const shift = ((event.clientX - drag.from) / (right - left)) * (drag.span[1] - drag.span[0]);
      setSpan(drag.span[0] - shift, drag.span[1] - shift);
      return;
    }
    showTip(null, null);
    plot.over.replaceChildren();
    const a = Math.max(left, Math.min(drag.x, x));
    const b = Math.min(right, Math.max(drag.x, x));
    if (b > a) svg('rect', { x: a, y: plot.area.top, width: b - a, height: plot.area.bottom - plot.area.top, class: 'selection' }, plot.over);
  });

  const release = (event) => {
    fingers.delete(event.pointerId);
    if (pinch) {
      if (!fingers.size) pinch = null;
      return;
    }
    const done = drag;
    drag = null;
    if (!done || event.type === 'pointercancel') return;
    const [x, y] = place(event);
    if (!done.moved) {
      const found = plot.find(x, y);
      if (found && (!done.touch ? found.distance < 30 : Math.abs(event.clientX - done.from) < 8 && found.distance < 40)) pin(found.line.layer);
      return;
    }
    if (!done.pan && Math.abs(x - done.x) > 8) setSpan(plot.step(Math.min(done.x, x)), plot.step(Math.max(done.x, x)));
    else redraw([plot]);
  };
  box.addEventListener('pointerup', release);
  box.addEventListener('pointercancel', release);
  box.addEventListener('pointerleave', (event) => {
    if (event.pointerType !== 'touch') hidePointer();
  });
  box.addEventListener('dblclick', () => setSpan(...wholeSpan()));
  box.addEventListener('wheel', (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoomAround(plot.step(place(event)[0]), Math.exp(Math.max(-60, Math.min(60, event.deltaY)) * 0.006));
  }, { passive: false });
  listenKeys(plot);
}
