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

const byId = (id) => document.getElementById(id);
const known = (value) => typeof value === 'number' && Number.isFinite(value);

function fixed(value, digits) {
  return known(value) ? value.toFixed(digits).replace('-', MINUS) : NONE;
}

function signed(value, digits = 3) {
  const text = fixed(value, digits);
  return known(value) && value > 0 && Number(value.toFixed(digits)) !== 0 ? `+${text}` : text;
}

// 18900000 -> '18.9 M', to three digits, as the search's own output has it.
function parametersText(value) {
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
  if (known(trial.full_index_bytes) && trial.index_bytes < trial.full_index_bytes) {
    parts.push(`vectors cut to ${trial.index_bytes / 4} of ${trial.full_index_bytes / 4} dimensions`);
  }
  if (parts.length) return parts.join('; ');
  return known(trial.parameters) ? 'unpruned' : 'no plan was made';
}

function trialName(data, trial) {
  return data.runs.length > 1 ? `${data.runs[trial.run].name} ${trial.trial}` : trial.trial;
}

const isComplete = (trial) => trial.state === 'complete' && known(trial.ndcg_at_10);
const unprunedOf = (data, run) => data.trials.find((t) => t.run === run && t.trial === data.runs[run].unpruned);
// Not measurably worse: the interval of the paired difference reaches 0.
const reachesZero = (trial) => known(trial.ndcg_at_10_difference_high) && trial.ndcg_at_10_difference_high >= 0;
