// A panel: one quantity or scalar with its tools, its drawings, its legend and its table.

const HEAT_FROM = 13; // layers: from as many, trust ratios start as a heat map,
const CROWDED = 61; // and what is noisy too
const NAMED = 8; // layers: with more, a bar of colours instead of a legend

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === 'on') for (const [event, run] of Object.entries(value)) made.addEventListener(event, run);
    else made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

// A button that is on or off.
function toggle(label, on, changed) {
  const button = element('button', { type: 'button', 'aria-pressed': String(on) }, label);
  button.addEventListener('click', () => {
    const now = button.getAttribute('aria-pressed') !== 'true';
    button.setAttribute('aria-pressed', String(now));
    changed(now);
  });
  return button;
}

class Panel {
  constructor(figure, label, { unit = '', log = false, heat = false, scalar = null, quantity = null }) {
    Object.assign(this, { figure, label, unit, scalar, quantity });
    this.isLog = log;
    this.isHeat = heat;
    this.plots = [];
    this.holder = element('div', { class: 'plots' });
    this.legend = element('div', { class: 'legend' });
    const tools = element('div', { class: 'panel-tools' }, toggle('Log', log, (on) => {
      this.isLog = on;
      redraw(this.plots);
    }));
    if (quantity) {
      this.heatButton = toggle('Heat map', heat, (on) => {
        this.isHeat = on;
        this.fill();
      });
      tools.append(this.heatButton);
    }
    figure.querySelector('figcaption').append(tools);
    figure.querySelector('figcaption').after(this.holder, this.legend);
    if (quantity) figure.append(this.table());
  }

  log() { return this.isLog; }

  heat() { return this.isHeat && state.view !== 'over'; }

  // Makes the drawings that the view asks for.
  fill() {
    for (const plot of this.plots) plots.splice(plots.indexOf(plot), 1);
    const made = this.scalar ? [[this.scalarLines(), '']] : this.layerLines();
    this.plots = [];
    this.holder.replaceChildren(...made.map(([lines, heading]) => {
      const content = lines.length ? this.plot(lines, heading).box : element('p', { class: 'note' }, 'Not measured.');
      return heading ? element('div', { class: 'one' }, element('h4', {}, heading), content) : content;
    }));
    plots.push(...this.plots);
    this.holder.classList.toggle('several', made.length > 1);
    this.explain();
    whole = null;
    if (this.heatButton) this.heatButton.disabled = state.view === 'over';
    redraw(this.plots);
  }

  plot(lines, heading) {
    const made = new Plot(this, lines, heading);
    made.box.classList.toggle('heat', this.heat());
    made.box.classList.toggle('tall', this.heat() && lines.length >= CROWDED);
    listen(made);
    this.plots.push(made);
    return made;
  }

  scalarLines() {
    return shownRuns().filter((run) => scalarOf(run, this.scalar)).map((run) => {
      const raw = scalarOf(run, this.scalar);
      const curve = smoothed(raw, state.smooth);
      return {
        layer: -1, run, name: page.runs[run].name, curve, raw: curve === raw ? null : raw,
        colour: () => runColour(run), dash: runDash(run),
      };
    });
  }

  line(run, layer, over) {
    const curve = curvesOf(run, this.quantity).get(layer);
    if (!curve) return null;
    const band = this.quantity === 'second_moment_p50';
    return {
      layer, run, curve, name: page.layers[layer],
      clipped: this.quantity === 'trust_ratio' ? clippedOfRun(run).get(layer) : undefined,
      low: band ? curvesOf(run, 'second_moment_p10').get(layer) : undefined,
      high: band ? curvesOf(run, 'second_moment_p90').get(layer) : undefined,
      colour: over ? () => runColour(run) : () => layerColour(layer), dash: over ? runDash(run) : [],
    };
  }

  layerLines() {
    const every = [...page.layers.keys()];
    const lines = (run) => every.map((layer) => this.line(run, layer, false)).filter(Boolean);
    if (state.view === 'one') return [[lines(state.run), '']];
    if (state.view === 'side') return shownRuns().map((run) => [lines(run), page.runs[run].name]);
    return [[shownRuns().map((run) => this.line(run, state.layer, true)).filter(Boolean), page.layers[state.layer]]];
  }

  explain() {
    this.legend.replaceChildren();
    if (this.scalar || state.view === 'over') {
      if (page.runs.length > 1) this.legend.append(...shownRuns().map((run) => runKey(run)));
      return;
    }
    if (this.heat()) return;
    const layers = [...new Set(this.plots.flatMap((plot) => plot.visible()).map((line) => line.layer))].sort((a, b) => a - b);
    if (!layers.length) return;
    if (layers.length <= NAMED) this.legend.append(...layers.map(layerKey));
    else this.legend.append(bar(), element('span', {}, `${layers.length} layers, ${page.layers[layers[0]]} to ${page.layers[layers[layers.length - 1]]}`));
  }

  // Values of all records by layer, made when it is opened.
  table() {
    const details = element('details', { class: 'values' }, element('summary', {}, 'Table of values'));
    details.addEventListener('toggle', () => {
      if (!details.open || details.querySelector('table')) return;
      const single = page.runs.length === 1;
      const clip = this.quantity === 'trust_ratio' && page.runs.some((run) => run.clipped);
      const columns = page.runs.flatMap((run, place) => {
        const ends = endsOf(place, this.quantity);
        const shares = clip ? [[single ? 'clipped' : `${run.name}, clipped`, clippedOfRun(place)]] : [];
        return single
          ? [['first', ends.first], ['lowest', ends.least], ['highest', ends.largest], ['last', ends.last], ...shares]
          : [[run.name, ends.last], ...shares];
      });
      const head = element('tr', {}, ...['layer', ...columns.map((column) => column[0])].map((name, place) => element('th', { scope: 'col', class: place ? 'number' : '' }, name)));
      const rows = page.layers.map((name, layer) => element('tr', {}, element('th', { scope: 'row' }, name), ...columns.map(([, values]) => {
        const value = values.get(layer);
        return element('td', { class: 'number', 'data-value': String(value ?? NaN) }, Number.isNaN(value ?? NaN) ? '–' : told(value));
      })));
      const caption = `${this.label} by layer${single ? '' : ', last value'}`;
      const table = element('table', { class: 'sortable' }, element('caption', {}, caption), element('thead', {}, head), element('tbody', {}, ...rows));
      details.append(element('div', { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': caption }, table));
      sortable(table);
    });
    return details;
  }
}

const shares = new Map();
function clippedOfRun(run) {
  if (!shares.has(run)) shares.set(run, clippedOf(run));
  return shares.get(run);
}

// A swatch that follows the theme.
function swatch(colour, dash = []) {
  const line = svg('svg', { viewBox: '0 0 22 10', class: 'swatch', 'aria-hidden': 'true' });
  const stroke = svg('line', { x1: 0, x2: 22, y1: 5, y2: 5, 'stroke-width': 3, 'stroke-dasharray': dash.join(' ') }, line);
  stroke.style.stroke = colour;
  return line;
}

const runKey = (run) => element('span', { class: 'key' }, swatch(runColour(run), runDash(run)), page.runs[run].name);

function layerKey(layer) {
  return element('button', {
    type: 'button', class: 'key', 'aria-pressed': String(state.pinned.includes(layer)), on: { click: () => pin(layer) },
  }, swatch(layerColour(layer)), page.layers[layer]);
}

// From input to output.
function bar() {
  const made = element('span', { class: 'bar', role: 'img', 'aria-label': 'Colours from input, dark, to output, light' });
  const colours = dark() ? RAMPS.dark : RAMPS.light;
  const stops = [0, 0.25, 0.5, 0.75, 1].map((t) => css(colours[Math.round(t * (colours.length - 1))]));
  made.style.background = `linear-gradient(to right, ${stops.join(', ')})`;
  return element('span', { class: 'key' }, 'input', made, 'output');
}

// Clicking a heading sorts by its column; again: the other way round.
function sortable(table) {
  const heads = [...table.querySelectorAll('thead th')];
  heads.forEach((head, column) => {
    const button = element('button', { type: 'button' });
    button.textContent = head.textContent;
    head.replaceChildren(button);
    button.addEventListener('click', () => {
      const way = head.getAttribute('aria-sort') === 'descending' ? 1 : -1;
      for (const other of heads) other.removeAttribute('aria-sort');
      head.setAttribute('aria-sort', way > 0 ? 'ascending' : 'descending');
      const body = table.tBodies[0];
      const key = (row) => row.cells[column];
      const compare = (a, b) => {
        const [x, y] = [parseFloat(key(a).dataset.value), parseFloat(key(b).dataset.value)];
        const [noX, noY] = [Number.isNaN(x), Number.isNaN(y)];
        if (noX && noY) return way * key(a).textContent.localeCompare(key(b).textContent, undefined, { numeric: true });
        return noX || noY ? noX - noY : way * (x === y ? 0 : x < y ? -1 : 1);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
