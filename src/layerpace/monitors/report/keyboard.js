// A drawing by keyboard: the cursor moves through steps and layers, and is read out.

const spoken = document.getElementById('spoken');

function moved(plot, line, index) {
  setCursor(plot, { line, index });
  if (state.x) {
    const step = line.curve.xs[index];
    const [from, to] = state.x;
    if (step < from || step > to) setSpan(step - (to - from) / 2, step + (to - from) / 2);
    plot.draw();
  }
  showTip(plot, { line, index });
  spoken.textContent = words(plot, line, index).join(', ');
}

// The next point that was measured, `by` points further; stops at the ends.
function along(curve, index, by) {
  let at = index;
  for (let left = Math.abs(by); left > 0; left--) {
    let next = at + Math.sign(by);
    while (next >= 0 && next < curve.ys.length && Number.isNaN(curve.ys[next])) next += Math.sign(by);
    if (next < 0 || next >= curve.ys.length) break;
    at = next;
  }
  return at;
}

function measuredNear(curve, step) {
  const at = nearest(curve.xs, step);
  return Number.isNaN(curve.ys[at]) ? along(curve, at, at ? -1 : 1) : at;
}

function listenKeys(plot) {
  plot.box.addEventListener('keydown', (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (!plot.area || plot.dirty) plot.draw();
    const lines = plot.shown.filter((line) => line.curve.xs.length);
    if (!lines.length) return;
    let { line, index } = state.cursor ?? {};
    const known = lines.find((other) => other === line)
      ?? lines.find((other) => line && other.layer === line.layer && other.run === line.run);
    if (!known) [line, index] = [lines[0], measuredNear(lines[0].curve, plot.range[1])];
    else if (known !== line) [line, index] = [known, measuredNear(known.curve, line.curve.xs[index])];
    const by = event.shiftKey ? 10 : 1;
    const turn = (places) => {
      const next = lines[Math.min(lines.length - 1, Math.max(0, lines.indexOf(line) + places))];
      return [next, measuredNear(next.curve, line.curve.xs[index])];
    };
    const fresh = !known;
    const actions = {
      ArrowLeft: () => moved(plot, line, fresh ? index : along(line.curve, index, -by)),
      ArrowRight: () => moved(plot, line, fresh ? index : along(line.curve, index, by)),
      ArrowUp: () => moved(plot, ...(fresh ? [line, index] : turn(-by))),
      ArrowDown: () => moved(plot, ...(fresh ? [line, index] : turn(by))),
      Home: () => moved(plot, line, measuredNear(line.curve, line.curve.xs[0])),
      End: () => moved(plot, line, measuredNear(line.curve, line.curve.xs[line.curve.xs.length - 1])),
      Enter: () => {
        pin(line.layer);
        if (line.layer >= 0) spoken.textContent = `${line.name} ${state.pinned.includes(line.layer) ? 'pinned' : 'unpinned'}`;
      },
      '+': () => zoomAround(line.curve.xs[index], 0.5),
      '=': () => zoomAround(line.curve.xs[index], 0.5),
      '-': () => zoomAround(line.curve.xs[index], 2),
      0: () => setSpan(...wholeSpan()),
      Escape: () => {
        state.pinned = [];
        hidePointer();
        pinsChanged();
      },
    };
    actions[' '] = actions.Enter;
    const action = actions[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
  plot.box.addEventListener('blur', hidePointer);
}
