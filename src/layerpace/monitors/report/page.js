// The page as a whole: its tools, the findings, and what happens at the start.

const MOST_RUNS = 12; // shown at a time, unless more are ticked
const panels = [];
const tools = document.getElementById('tools');
const several = page.runs.length > 1;

const shownRuns = () => [...state.runs].sort((a, b) => a - b);

function refill(which = panels) {
  hidePointer();
  for (const panel of which) panel.fill();
  document.getElementById('layer-charts').classList.toggle('wide', state.view === 'side' && state.runs.size > 1);
}

const layerPanels = () => panels.filter((panel) => panel.quantity);

// "conv, fc*.bias": layers that hold one of the words, or match one that has * or ?.
function setFilter(text) {
  const words = text.split(',').map((word) => word.trim().toLowerCase()).filter(Boolean);
  const tests = words.map((word) => {
    if (!/[*?]/.test(word)) return (name) => name.includes(word);
    const escaped = word.replace(/[.+^${}()|[\]\\]/g, '\\$&').replace(/\*/g, '.*').replace(/\?/g, '.');
    const pattern = new RegExp(`^${escaped}$`);
    return (name) => pattern.test(name);
  });
  const matching = page.layers.map((name, layer) => layer).filter((layer) => tests.some((test) => test(page.layers[layer].toLowerCase())));
  state.wanted = words.length ? new Set(matching) : null;
  count.textContent = words.length ? `${matching.length} of ${page.layers.length} layers` : '';
  hidePointer();
  for (const panel of layerPanels()) panel.explain();
  redraw(layerPanels().flatMap((panel) => panel.plots));
}

const count = element('output', { class: 'count', for: 'filter' });
const pins = element('span', { class: 'pins' });

function pinsChanged() {
  pins.replaceChildren(...state.pinned.slice(0, 6).map((layer) => element('button', {
    type: 'button', class: 'pin', 'aria-label': `Unpin ${page.layers[layer]}`, on: { click: () => pin(layer) },
  }, swatch(layerColour(layer)), page.layers[layer], ' ×')));
  if (state.pinned.length > 6) pins.append(`and ${state.pinned.length - 6} more`);
  if (state.pinned.length > 1) {
    pins.append(element('button', { type: 'button', on: { click: () => { state.pinned = []; pinsChanged(); } } }, 'Unpin all'));
  }
  for (const panel of layerPanels()) panel.explain();
  redraw();
}

function select(id, label, options, value, changed) {
  const made = element('select', { id, on: { change: (event) => changed(event.target.value) } },
    ...options.map(([key, text]) => element('option', { value: key }, text)));
  made.value = value;
  return element('label', { for: id }, `${label} `, made);
}

function makeTools() {
  const filter = element('input', {
    id: 'filter', type: 'search', placeholder: 'conv, *.bias', autocomplete: 'off', spellcheck: 'false',
    on: { input: (event) => setFilter(event.target.value) },
  });
  tools.append(element('label', { for: 'filter' }, 'Layers ', filter), count);
  if (several) tools.append(...runTools());
  const reset = element('button', { type: 'button', id: 'reset', on: { click: () => {
    state.shade = null;
    setSpan(...wholeSpan());
  } } }, 'Show all steps');
  tools.append(reset, pins);
}

function runTools() {
  const one = select('run', 'Run', page.runs.map((run, place) => [place, run.name]), state.run, (value) => {
    state.run = Number(value);
    refill(layerPanels());
  });
  const layer = select('layer', 'Layer', page.layers.map((name, place) => [place, name]), state.layer, (value) => {
    state.layer = Number(value);
    refill(layerPanels());
  });
  const views = [['one', 'one run'], ['side', 'runs side by side'], ['over', 'one layer, all runs']];
  const view = select('view', 'Show', views, state.view, (value) => {
    state.view = value;
    if (value === 'over' && state.pinned.length) setLayer(state.pinned[state.pinned.length - 1]);
    fit();
    refill(layerPanels());
  });
  const setLayer = (value) => {
    state.layer = value;
    layer.querySelector('select').value = value;
  };
  const fit = () => {
    one.hidden = state.view !== 'one';
    layer.hidden = state.view !== 'over';
  };
  fit();
  return [view, one, layer];
}

function runChoice() {
  const said = element('summary', {});
  const tell = () => { said.textContent = `Runs: ${state.runs.size} of ${page.runs.length} shown`; };
  tell();
  const boxes = page.runs.map((run, place) => {
    const box = element('input', { type: 'checkbox', on: { change: (event) => {
      if (event.target.checked) state.runs.add(place);
      else if (state.runs.size > 1) state.runs.delete(place);
      else event.target.checked = true;
      tell();
      refill();
    } } });
    box.checked = state.runs.has(place);
    return element('label', {}, box, runKey(place));
  });
  return element('details', { class: 'runs' }, said, element('div', { class: 'boxes' }, ...boxes));
}

function makeScalars() {
  if (!page.scalars.length) return;
  document.getElementById('scalars').hidden = false;
  const bar = document.getElementById('scalar-tools');
  if (several) bar.append(runChoice());
  const slider = element('input', { id: 'smooth', type: 'range', min: '0', max: '0.98', step: '0.02', value: String(state.smooth) });
  const value = element('output', { for: 'smooth' }, state.smooth.toFixed(2));
  slider.addEventListener('input', () => {
    state.smooth = Number(slider.value);
    value.textContent = state.smooth.toFixed(2);
    refill(panels.filter((panel) => panel.scalar));
  });
  bar.append(element('label', { for: 'smooth' }, 'Smoothing ', slider, ' ', value));
  for (const name of page.scalars) {
    const figure = element('figure', { class: 'chart' }, element('figcaption', {}, element('h3', {}, name)), element('div', { class: 'words' }));
    document.getElementById('scalar-charts').append(figure);
    const panel = new Panel(figure, name, { scalar: name });
    panels.push(panel);
    const last = page.runs.map((run, place) => [run.name, scalarOf(place, name)]).filter(([, curve]) => curve);
    const text = last.map(([run, { xs, ys }]) => `${several ? `${run}: ` : ''}${told(ys[ys.length - 1])} at step ${xs[xs.length - 1]}`);
    const said = element('p', {}, `Last value: ${text.join('; ')}.`);
    figure.querySelector('.words').append(last.length > 3
      ? element('details', {}, element('summary', {}, 'In words, for each run'), said) : said);
  }
}

function makeLayers() {
  for (const figure of document.querySelectorAll('#layer-charts .chart')) {
    const chart = page.charts.find((one) => one.quantity === figure.dataset.quantity);
    const heat = page.layers.length >= (chart.quantity === 'trust_ratio' ? HEAT_FROM : chart.noisy ? CROWDED : Infinity);
    const panel = new Panel(figure, chart.title, { unit: chart.unit, log: chart.log, heat, quantity: chart.quantity });
    panels.push(panel);
  }
  if (!page.charts.length) tools.hidden = true;
}

// A finding's layers, run and steps, in the charts.
function aim({ run, layers, steps }) {
  state.pinned = layers;
  state.shade = steps ? { run, steps } : null;
  state.run = run;
  if (several) {
    state.runs.add(run);
    if (state.view === 'over') state.layer = layers[0];
    document.getElementById('run').value = run;
    document.getElementById('layer').value = state.layer;
    if (state.view !== 'side') {
      state.view = 'one';
      document.getElementById('view').value = 'one';
      document.getElementById('view').dispatchEvent(new Event('change'));
    }
  }
  document.getElementById('filter').value = '';
  setFilter('');
  refill();
  pinsChanged();
  spoken.textContent = `Pinned ${layers.map((layer) => page.layers[layer]).join(', ')}`;
  const target = document.getElementById('charts');
  target.scrollIntoView({ behavior: matchMedia('(prefers-reduced-motion: reduce)').matches ? 'auto' : 'smooth' });
}

function print(on) {
  printing = on;
  for (const panel of panels) panel.explain();
  if (on) for (const plot of plots) plot.draw();
  else redraw();
}

function start() {
  const groups = new Set();
  page.runs.forEach((run, place) => {
    if (page.runs.length <= MOST_RUNS || (!groups.has(run.group) && state.runs.size < MOST_RUNS)) state.runs.add(place);
    groups.add(run.group);
  });
  state.view = several && page.runs.length <= 3 && !media.narrow.matches ? 'side' : 'one';
  makeScalars();
  makeTools();
  makeLayers();
  refill();
  document.querySelectorAll('table.sortable').forEach(sortable);
  for (const button of document.querySelectorAll('button.show')) {
    button.addEventListener('click', () => aim(JSON.parse(button.dataset.aim)));
  }
  addEventListener('beforeprint', () => print(true));
  addEventListener('afterprint', () => print(false));
  media.dark.addEventListener('change', () => refill());
  let width = innerWidth;
  new ResizeObserver(() => {
    if (printing || document.documentElement.clientWidth === width) return;
    width = document.documentElement.clientWidth;
    redraw();
  }).observe(document.body);
  document.addEventListener('pointerdown', (event) => {
    if (!event.target.closest('.plot')) hidePointer();
  });
}

start();
