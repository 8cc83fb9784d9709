// Texts and elements. Whatever comes from the data becomes text, never markup.

const NONE = '–';
const MINUS = '\u2212';

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// Drawing anew must not take the keyboard's place from a reader: the same button or row has the focus afterwards.
function keepingFocus(redraw) {
  const active = document.activeElement;
  const root = active && active.closest('[id]');
  const places = () => [...root.querySelectorAll('button, tr')];
  const place = root ? places().indexOf(active) : -1;
  redraw();
  if (place < 0 || active.isConnected) return;
  const same = places().find((each) => active.dataset.id && each.dataset.id === active.dataset.id) || places()[place];
  if (same) same.focus({ preventScroll: true });
}

const byId = (id) => document.getElementById(id);
const known = (value) => typeof value === 'number' && Number.isFinite(value);

function fixed(value, digits) {
  return known(value) ? value.toFixed(digits).replace('-', MINUS) : NONE;
}

function signed(value, digits = 3) {
  const text = fixed(value, digits);
  return known(value) && value > 0 && Number(value.toFixed(digits)) !== 0 ? `+${text}` : text;
}

// Entries of the table of measures, by name. Labels, units, directions and formats come with the data: no script names
// a measure. ROLES says which one is the quality, the size and so on.
const MEASURES = new Map();
const ROLES = {};

function readMeasures(data) {
  MEASURES.clear();
  for (const entry of data.measures) MEASURES.set(entry.name, entry);
  Object.assign(ROLES, data.roles);
}

const withRole = (role) => MEASURES.get(ROLES[role]);
const valueOf = (trial, role) => trial.values[ROLES[role]];

// 1234.5 -> '1,234.5', without the unit.
function numberText(entry, value) {
  if (!known(value)) return NONE;
  const shown = value * entry.unit.scale;
  if (entry.unit.significant) return threeDigits(shown);
  const [whole, rest] = shown.toFixed(entry.unit.digits).split('.');
  return Number(whole).toLocaleString('en') + (rest ? `.${rest}` : '');
}

const measureText = (entry, value) => (known(value) ? numberText(entry, value) + entry.unit.suffix : NONE);
// In few characters: 18.9 M.
const shortText = (entry, value) => (entry.unit.counted ? countText(value) : measureText(entry, value));
// For a line of its own: 3 min 12 s.
const longText = (entry, value) => (entry.unit.name === 's' ? duration(value) : measureText(entry, value));

const sizeText = (trial) => shortText(withRole('size'), valueOf(trial, 'size'));
const shareText = (trial, role, digits = 0) => `${withRole(role).head} ${percent(valueOf(trial, role), digits)}`;
// What a user pays for first, where it is known: 'blocks 71 %'.
const firstShare = (trial) => shareText(trial, known(valueOf(trial, 'block_share')) ? 'block_share' : 'share');
// 'blocks 71 % (total 84 %)'
const leftText = (trial) => firstShare(trial) + (known(valueOf(trial, 'block_share')) ? ` (${shareText(trial, 'share')})` : '');
const qualityText = (trial) => measureText(withRole('quality'), valueOf(trial, 'quality'));

// 18900000 -> '18.9 M', to three digits, as the search's own output has it.
function countText(value) {
  if (!known(value)) return NONE;
  for (const [unit, size] of [['B', 1e9], ['M', 1e6], ['k', 1e3]]) {
    if (value >= 0.9995 * size) {
      const scaled = value / size;
      return `${scaled.toFixed(scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0)} ${unit}`;
    }
  }
  return value.toFixed(0);
}

function percent(share, digits = 1) {
  return known(share) ? `${(100 * share).toFixed(digits)} %` : NONE;
}

function duration(seconds) {
  if (!known(seconds)) return NONE;
  const whole = Math.round(seconds);
  if (whole < 60) return `${seconds < 10 ? seconds.toFixed(1) : whole} s`;
  if (whole < 3600) return `${Math.floor(whole / 60)} min ${whole % 60} s`;
  return `${Math.floor(whole / 3600)} h ${Math.floor((whole % 3600) / 60)} min`;
}

function threeDigits(value) {
  if (!known(value)) return NONE;
  return value >= 100 ? Math.round(value).toLocaleString('en') : String(Number(value.toPrecision(3)));
}

function interval(low, high, sign = false) {
  const text = sign ? signed : fixed;
  return known(low) ? `[${text(low, 3)}, ${text(high, 3)}]` : '';
}

// 'without MLPs 0, 3; the rest 80 % wide'
function planText(trial) {
  const parts = [];
  const gone = (blocks, name) => {
    if (blocks && blocks.length) parts.push(`without ${name}${blocks.length > 1 ? 's' : ''} ${blocks.join(', ')}`);
  };
  gone(trial.dropped_mlp, 'MLP');
  gone(trial.dropped_attention, 'attention');
  if (known(trial.width_ratio) && trial.width_ratio < 0.9995) {
    parts.push(`${parts.length ? 'the other MLPs' : 'all MLPs'} ${Math.round(100 * trial.width_ratio)} % wide`);
  }
  if (trial.dimension && trial.dimension < trial.full_dimension) {
    parts.push(`embeddings cut to ${trial.dimension} of ${trial.full_dimension} dimensions`);
  }
  parts.push(...(trial.other_operations || []));
  if (parts.length) return parts.join('; ');
  return known(trial.width_ratio) ? 'unpruned' : 'no plan was made';
}

function trialName(data, trial) {
  return data.runs.length > 1 ? `${data.runs[trial.run].name} ${trial.trial}` : trial.trial;
}

const isComplete = (trial) => trial.state === 'complete' && known(valueOf(trial, 'quality'));
const unprunedOf = (data, run) => data.trials.find((t) => t.run === run && t.trial === data.runs[run].unpruned);
// What the search says of a trial as a safe model: its difference from the unpruned one on the queries that judge.
const judgedOf = (data, trial) => data.runs[trial.run].safety.judged[trial.trial];
const smallestSafe = (data) => data.trials.find((t) => t.trial === data.runs[t.run].safety.smallest);
