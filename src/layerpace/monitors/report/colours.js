// Colours. Layers go from dark (input) to light (output) in even steps of OKLab, violet over teal to green: the order is
// one of lightness, which every reader sees, and both ends keep a contrast of 3 to the background.

const media = {
  dark: matchMedia('(prefers-color-scheme: dark)'),
  narrow: matchMedia('(max-width: 640px)'),
};
let printing = false;
const dark = () => media.dark.matches && !printing;

function fromOklch(lightness, chroma, hue) {
  const angle = (hue * Math.PI) / 180;
  const a = chroma * Math.cos(angle);
  const b = chroma * Math.sin(angle);
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

// [r, g, b] in 0..255; less chroma where the screen cannot show as much.
function screen(lightness, chroma, hue) {
  let linear = fromOklch(lightness, chroma, hue);
  while (chroma > 0.01 && linear.some((x) => x < -0.002 || x > 1.002)) {
    chroma -= 0.005;
    linear = fromOklch(lightness, chroma, hue);
  }
  return linear.map((x) => {
    const y = Math.min(1, Math.max(0, x));
    return Math.round(255 * (y <= 0.0031308 ? 12.92 * y : 1.055 * y ** (1 / 2.4) - 0.055));
  });
}

const css = (rgb) => `rgb(${rgb.join(',')})`;

function ramp(from, to, count = 256) {
  const colours = [];
  for (let i = 0; i < count; i++) {
    const t = i / (count - 1);
    colours.push(screen(from + (to - from) * t, 0.13 + 0.03 * t, 305 - 175 * t));
  }
  return colours;
}

const RAMPS = { light: ramp(0.28, 0.65), dark: ramp(0.56, 0.95), heat: ramp(0.24, 0.95) };

function layerColour(layer) {
  const colours = dark() ? RAMPS.dark : RAMPS.light;
  return css(colours[Math.round((layer / Math.max(1, page.layers.length - 1)) * (colours.length - 1))]);
}

// Of one heat-map cell, t in 0..1.
const heatColour = (t) => RAMPS.heat[Math.round(Math.min(1, Math.max(0, t)) * (RAMPS.heat.length - 1))];

// Runs: hues that differ in lightness too, and a dash for each further round and seed.
const RUN_COLOURS = [
  [0.5, 0.15, 255], [0.6, 0.16, 45], [0.42, 0.11, 165], [0.55, 0.2, 350], [0.33, 0.12, 295], [0.63, 0.12, 85],
  [0.6, 0.11, 215], [0.4, 0.14, 25],
];
const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4]];

function runColour(run) {
  const [lightness, chroma, hue] = RUN_COLOURS[page.runs[run].group % RUN_COLOURS.length];
  return css(screen(dark() ? lightness * 0.55 + 0.45 : lightness, chroma, hue));
}

function runDash(run) {
  const group = page.runs[run].group;
  const before = page.runs.slice(0, run).filter((other) => other.group === group).length;
  return DASHES[(before + Math.floor(group / RUN_COLOURS.length)) % DASHES.length];
}

const inks = () =>
  dark()
    ? { text: '#c9d1d9', grid: '#2b323b', axis: '#6e7781', paper: '#171b21', faded: '#8b949e40', wrong: '#ff8a75', shade: '#f2cc6024' }
    : { text: '#414954', grid: '#e8ebef', axis: '#8c959f', paper: '#ffffff', faded: '#57606a2e', wrong: '#b3261e', shade: '#bf87001c' };
