// The front and the course of the hypervolume, drawn by plotly.

const INK = '#1f2429';
const SOFT = '#5c6670';
const GRID = '#e9edf0';
// Told apart with any kind of colour blindness (Okabe and Ito).
const BLUE = '#0072b2';
const LIGHT_BLUE = '#8fc1e3';
const RED = '#d55e00';
const GREEN = '#009e73';
const GOLD = '#e69f00';
const PALE = '#b9c2cb';
// Green and gold mean something already.
const RUN_COLOURS = [BLUE, RED, '#cc79a7', '#56b4e9', '#6b6b6b', '#000000'];
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

// What quality is set against. better: -1 where less is, 1 where more is.
const AXES = {
  parameters: { name: 'parameters', title: 'parameters (million)', better: -1, value: (t) => t.parameters / 1e6 },
  parameters_fraction: {
    name: 'share of parameters', title: 'share of the unpruned model\u2019s parameters (%)', better: -1,
    value: (t) => 100 * t.parameters_fraction,
  },
  documents_per_second: {
    name: 'speed: documents', title: 'documents encoded per second', better: 1, value: (t) => t.documents_per_second,
  },
  queries_per_second: {
    name: 'speed: queries', title: 'queries encoded per second', better: 1, value: (t) => t.queries_per_second,
  },
  block_parameters: {
    name: 'parameters without embeddings', title: 'parameters without embeddings (million)', better: -1, value: (t) => t.block_parameters / 1e6,
  },
  index_bytes: { name: 'index size', title: 'bytes of a document in the index', better: -1, value: (t) => t.index_bytes },
  memory_bytes: { name: 'memory', title: 'memory of weights and of encoding a batch (MB)', better: -1, value: (t) => t.memory_bytes / 1e6 },
  query_speedup: { name: 'speed-up: queries', title: 'times as fast as the unpruned model, a query', better: 1, value: (t) => t.query_speedup },
  document_speedup: {
    name: 'speed-up: documents', title: 'times as fast as the unpruned model, a batch of documents', better: 1, value: (t) => t.document_speedup,
  },
  train_seconds: { name: 'training time', title: 'training time (s)', better: -1, value: (t) => t.train_seconds },
  total_seconds: { name: 'time of the trial', title: 'time of the whole trial (s)', better: -1, value: (t) => t.total_seconds },
};

// Models of a billion parameters and more are counted in billions.
function chooseUnits(data) {
  const billions = data.trials.some((t) => t.full_parameters >= 1e9);
  AXES.parameters.title = `parameters (${billions ? 'billion' : 'million'})`;
  AXES.parameters.value = (t) => t.parameters / (billions ? 1e9 : 1e6);
}

// A repeat is no point of its own: its scores are in the mean of the trial that it repeats.
const measured = (data, axis) => data.trials.filter((t) => isComplete(t) && !t.repeat_of && known(AXES[axis].value(t)) && AXES[axis].value(t) > 0);

// What the search counted as cost, first.
const firstAxis = (data) => (data.objectives.find((o) => AXES[o.name]) || { name: 'parameters' }).name;

// The trials within the constraints that none is at least as cheap and as good as, cheapest first; of equal ones the first.
function frontOf(trials, axis) {
  const cost = (t) => -AXES[axis].better * AXES[axis].value(t);
  const order = trials.map((t, i) => [t, i]).filter(([t]) => t.satisfies);
  order.sort(([a, i], [b, j]) => cost(a) - cost(b) || b.ndcg_at_10 - a.ndcg_at_10 || i - j);
  const front = [];
  for (const [trial] of order) {
    if (!front.length || trial.ndcg_at_10 > front[front.length - 1].ndcg_at_10) front.push(trial);
  }
  return front;
}

const escaped = (text) => String(text).replace(/&/g, '&amp;').replace(/</g, '&lt;').replace(/>/g, '&gt;');

function wrapped(text, most = 46) {
  const lines = [''];
  for (const word of text.split(' ')) {
    const last = lines.length - 1;
    if (lines[last] && lines[last].length + word.length >= most) lines.push(word);
    else lines[last] += (lines[last] ? ' ' : '') + word;
  }
  return lines.map(escaped).join('<br>');
}

function hoverText(data, trial) {
  const lines = [`<b>${escaped(trialName(data, trial))}</b>`, wrapped(planText(trial))];
  lines.push(`${parametersText(trial.parameters)} parameters (${percent(trial.parameters_fraction)})`);
  lines.push(`nDCG@10 ${fixed(trial.ndcg_at_10, 4)} ${interval(trial.ndcg_at_10_low, trial.ndcg_at_10_high)}`);
  if (known(trial.ndcg_at_10_difference) && trial.trial !== data.runs[trial.run].unpruned) {
    const difference = interval(trial.ndcg_at_10_difference_low, trial.ndcg_at_10_difference_high, true);
    lines.push(`against unpruned ${signed(trial.ndcg_at_10_difference)} ${difference}`);
  }
  if (known(trial.test_ndcg_at_10)) lines.push(`on the test queries ${fixed(trial.test_ndcg_at_10, 4)}`);
  if (known(trial.documents_per_second)) lines.push(`${threeDigits(trial.documents_per_second)} documents per second`);
  if (known(trial.held_out_ndcg_at_10)) lines.push(`on the held-out data ${fixed(trial.held_out_ndcg_at_10, 4)}`);
  lines.push(`trained in ${duration(trial.train_seconds)}${trial.seeds > 1 ? `; means over ${trial.seeds} seeds` : ''}`);
  return lines.join('<br>');
}

// One collapsed trial must not flatten the front: what lies far below it is drawn at the edge.
function rangeOf(trials, front) {
  const ys = (front.length ? front : trials).flatMap((t) => [t.ndcg_at_10, t.ndcg_at_10_low, t.ndcg_at_10_high, t.test_ndcg_at_10]).filter(known);
  const [least, most] = [Math.min(...ys), Math.max(...ys)];
  const lowest = Math.min(least, ...trials.map((t) => t.ndcg_at_10));
  const low = Math.max(lowest, least - 0.5 * Math.max(most - least, 0.05));
  const tall = Math.max(most - low, 0.02);
  return [low - 0.05 * tall, most + 0.06 * tall];
}

function markers(data, trials, axis, y, marker, more = {}) {
  return {
    type: 'scatter', mode: 'markers', x: trials.map(AXES[axis].value), y: trials.map(y), marker,
    customdata: trials.map((t) => t.id), text: trials.map((t) => hoverText(data, t)),
    hovertemplate: '%{text}<extra></extra>', ...more,
  };
}

function steps(front, axis, xs) {
  // A trial beats all that is dearer and worse: between two trials of the front the cheaper one's score holds.
  const points = front.map((t) => [AXES[axis].value(t), t.ndcg_at_10]);
  if (points.length) points.push([AXES[axis].better < 0 ? xs[1] : xs[0], points[points.length - 1][1]]);
  return {
    type: 'scatter', mode: 'lines', x: points.map((p) => p[0]), y: points.map((p) => p[1]), hoverinfo: 'skip',
    line: { shape: 'hv', color: BLUE, width: 1.5 },
  };
}

function ring(data, state, low) {
  const chosen = measured(data, state.axis).filter((t) => t.id === state.selected);
  return markers(data, chosen, state.axis, (t) => Math.max(t.ndcg_at_10, low),
    { size: 24, color: GOLD, symbol: 'circle-open', line: { width: 3.5 } }, { hoverinfo: 'skip', hovertemplate: null });
}

// The ring is the last trace: choosing another trial moves it and draws nothing else anew.
function moveRing(data, state) {
  const chart = byId('front-chart');
  if (!chart.data) return;
  const { x, y } = ring(data, state, chart.layout.meta.low);
  Plotly.restyle(chart, { x: [x], y: [y] }, [chart.data.length - 1]);
}

// Not told apart from the next dearer model of the search's own front.
const isNoise = (data, state, trial) => data.runs.length === 1 && state.axis === firstAxis(data) && trial.told_apart === false;

function frontTraces(data, state, trials, front, xs, low) {
  const axis = state.axis;
  const several = data.runs.length > 1;
  const colour = (t) => (several ? RUN_COLOURS[t.run % RUN_COLOURS.length] : PALE);
  const onFront = new Set(front.map((t) => t.id));
  const behind = trials.filter((t) => !onFront.has(t.id));
  const below = (t) => t.ndcg_at_10 < low;
  const whole = trials.filter((t) => t.trial === data.runs[t.run].unpruned);
  const y = (t) => Math.max(t.ndcg_at_10, low);
  const quiet = { hoverinfo: 'skip', hovertemplate: null };
  const error = (bound) => front.map((t) => (known(t[bound]) ? Math.abs(t[bound] - t.ndcg_at_10) : 0));
  return [
    markers(data, behind, axis, y, {
      size: behind.map((t) => (below(t) ? 9 : 7)), color: behind.map(colour), opacity: several ? 0.45 : 1,
      symbol: behind.map((t) => (below(t) ? 'triangle-down' : 'circle')),
    }),
    steps(front, axis, xs),
    markers(data, several ? [] : front.filter((t) => known(t.test_ndcg_at_10)), axis, (t) => t.test_ndcg_at_10,
      { size: 8, color: '#fff', symbol: 'diamond', line: { color: RED, width: 1.5 } }),
    markers(data, front, axis, y, { size: 10, color: front.map((t) => (several ? colour(t) : isNoise(data, state, t) ? LIGHT_BLUE : BLUE)), line: { color: '#fff', width: 1 } }, {
      error_y: {
        type: 'data', symmetric: false, array: error('ndcg_at_10_high'), arrayminus: error('ndcg_at_10_low'),
        color: 'rgba(0, 114, 178, 0.45)', thickness: 1.3, width: 3,
      },
    }),
    markers(data, data.objectives.length > 2 ? trials.filter((t) => t.on_front) : [], axis, y,
      { size: 15, color: BLUE, symbol: 'circle-open', line: { width: 1.4 } }, quiet),
    markers(data, trials.filter((t) => t.recipe), axis, y,
      { size: 14, color: GREEN, symbol: 'square-open', line: { width: 1.6 } }, quiet),
    markers(data, whole, axis, y, { size: 18, color: INK, symbol: 'circle-open', line: { width: 1.6 } }, quiet),
    ring(data, state, low),
  ];
}

function layout(xTitle, yTitle, more) {
  const axis = { gridcolor: GRID, zeroline: false, linecolor: '#c8ced4', ticks: 'outside', tickcolor: '#c8ced4', ticklen: 4, automargin: true };
  return {
    font: { family: FONT, size: 13, color: INK }, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: '#fff', showlegend: false,
    margin: { l: 56, r: 14, t: 12, b: 50 }, hovermode: 'closest', hoverdistance: 24,
    hoverlabel: { bgcolor: '#fff', bordercolor: SOFT, font: { family: FONT, size: 13, color: INK }, align: 'left' },
    dragmode: matchMedia('(pointer: coarse)').matches ? false : 'zoom',
    ...more, xaxis: { ...axis, title: { text: xTitle, standoff: 10, font: { size: 13 } }, ...more.xaxis }, yaxis: { ...axis, title: { text: yTitle, standoff: 8, font: { size: 13 } }, ...more.yaxis },
  };
}

const SETTINGS = {
  displaylogo: false, responsive: true, displayModeBar: false, doubleClick: 'reset', showTips: false,
};

function drawFront(data, state) {
  const trials = measured(data, state.axis);
  if (!trials.length) {
    byId('front-chart').replaceChildren(element('p', { className: 'note' }, 'No trial is complete yet.'));
    return [];
  }
  if (!byId('front-chart').data) byId('front-chart').replaceChildren();
  const axis = AXES[state.axis];
  const front = frontOf(trials, state.axis);
  const values = trials.map(axis.value);
  const wide = Math.max(Math.max(...values) - Math.min(...values), 0.05 * Math.max(...values));
  const xs = [Math.min(...values) - 0.05 * wide, Math.max(...values) + 0.05 * wide];
  const ys = rangeOf(trials, front);
  const traces = frontTraces(data, state, trials, front, xs, ys[0]);
  const frame = { uirevision: state.axis, meta: { low: ys[0] }, xaxis: { range: xs }, yaxis: { range: ys, tickformat: '.2f' } };
  Plotly.react('front-chart', traces, layout(axis.title, 'nDCG@10', frame), SETTINGS);
  return front;
}

function drawHypervolume(data) {
  const longest = Math.max(...data.runs.flatMap((run) => run.hypervolume.map((point) => point[0])), 0);
  const [unit, size] = longest > 7200 ? ['hours', 3600] : longest > 120 ? ['minutes', 60] : ['seconds', 1];
  const traces = data.runs.map((run, i) => ({
    type: 'scatter', mode: 'lines', name: escaped(run.name),
    x: [0, ...run.hypervolume.map((p) => p[0] / size)], y: [0, ...run.hypervolume.map((p) => p[1])],
    line: { shape: 'hv', color: RUN_COLOURS[i % RUN_COLOURS.length], width: 2 },
    hovertemplate: `${escaped(run.name)}<br>%{x:.1f} ${unit}<br>hypervolume %{y:.4f}<extra></extra>`,
  }));
  const frame = { uirevision: 'kept', xaxis: { rangemode: 'tozero' }, yaxis: { rangemode: 'tozero' } };
  Plotly.react('hypervolume-chart', traces, layout(`time of all trials so far (${unit})`, 'hypervolume', frame), SETTINGS);
}

function mark(shape, attributes) {
  const shapes = {
    circle: () => drawing('circle', { cx: 9, cy: 9, r: 4.5, ...attributes }),
    ring: () => drawing('circle', { cx: 9, cy: 9, r: 7, fill: 'none', 'stroke-width': 1.6, ...attributes }),
    square: () => drawing('rect', { x: 3, y: 3, width: 12, height: 12, fill: 'none', 'stroke-width': 1.6, ...attributes }),
    diamond: () => drawing('path', { d: 'M9 3.5 14.5 9 9 14.5 3.5 9Z', fill: '#fff', 'stroke-width': 1.5, ...attributes }),
    triangle: () => drawing('path', { d: 'M4 5H14L9 13.5Z', ...attributes }),
  };
  return drawing('svg', { width: 18, height: 18, viewBox: '0 0 18 18', 'aria-hidden': 'true' }, shapes[shape]());
}

function drawLegend(data, state, front) {
  const items = [];
  const add = (shape, attributes, text) => items.push(element('li', {}, mark(shape, attributes), text));
  if (data.runs.length > 1) data.runs.forEach((run, i) => add('circle', { fill: RUN_COLOURS[i % RUN_COLOURS.length] }, run.name));
  else {
    add('circle', { fill: BLUE }, 'front, with 95 % interval');
    if (front.some((t) => isNoise(data, state, t))) add('circle', { fill: LIGHT_BLUE }, 'front, not told apart from the next dearer one');
    if (data.objectives.length > 2) add('ring', { stroke: BLUE }, 'front of all objectives');
    add('circle', { fill: PALE }, 'other trials');
  }
  if (data.runs.some((run) => run.unpruned)) add('ring', { stroke: INK }, 'unpruned model');
  if (data.trials.some((t) => t.recipe)) add('square', { stroke: GREEN }, 'EffiR\u2019s recipe: least important MLPs go');
  if (data.runs.length === 1 && front.some((t) => known(t.test_ndcg_at_10))) add('diamond', { stroke: RED }, 'front on the test queries');
  add('ring', { stroke: GOLD, 'stroke-width': 3 }, 'selected');
  byId('legend').replaceChildren(...items);
}
