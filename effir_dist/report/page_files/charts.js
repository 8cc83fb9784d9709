// The front and the course of the hypervolume, drawn by plotly.

const INK = '#1f2429';
const SOFT = '#5c6670';
const GRID = '#e9edf0';
// Distinct with any kind of colour blindness (Okabe and Ito).
const BLUE = '#0072b2';
const LIGHT_BLUE = '#8fc1e3';
const RED = '#d55e00';
const GREEN = '#009e73';
const GOLD = '#e69f00';
const PALE = '#b9c2cb';
// Green and gold mean something already.
const RUN_COLOURS = [BLUE, RED, '#cc79a7', '#56b4e9', '#6b6b6b', '#000000'];
const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';

// What quality is drawn against: any measure that is no quality itself.
const axes = (data) => data.measures.filter((entry) => !entry.quality);
const onAxis = (trial, axis) => trial.values[axis] / MEASURES.get(axis).axis.size;

// A repeat is no point of its own: its scores are in the mean of the trial that it repeats.
const measured = (data, axis) => data.trials.filter((t) => isComplete(t) && !t.repeat_of && known(t.values[axis]) && t.values[axis] > 0);

// What is offered first: the search's first cost, of sizes the one without embeddings.
const firstAxis = (data) => data.axis;
// The axes of the search's own front. Both sizes order plans alike.
const ownAxes = (data) => [data.axis, data.objectives.find((name) => !MEASURES.get(name).quality)];

// The feasible trials that none is at least as cheap and as good as, cheapest first; of equal ones the first. Of a trial
// and its full recovery the better one.
function frontOf(trials, axis) {
  const cost = (t) => -MEASURES.get(axis).better * onAxis(t, axis);
  const quality = (t) => valueOf(t, 'quality');
  const order = trials.map((t, i) => [t, i]).filter(([t]) => t.stands);
  order.sort(([a, i], [b, j]) => cost(a) - cost(b) || quality(b) - quality(a) || i - j);
  const front = [];
  for (const [trial] of order) {
    if (!front.length || quality(trial) > quality(front[front.length - 1])) front.push(trial);
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
  const { quality } = trial;
  const score = withRole('quality');
  const lines = [`<b>${escaped(trialName(data, trial))}</b>`, wrapped(planText(trial))];
  lines.push(`${escaped(leftText(trial))}, ${sizeText(trial)} ${escaped(withRole('size').label)}`);
  lines.push(`${escaped(score.label)} ${qualityText(trial)} ${interval(quality.low, quality.high)}`);
  if (known(quality.difference) && trial.trial !== data.runs[trial.run].unpruned) {
    const difference = interval(quality.difference_low, quality.difference_high, true);
    lines.push(`against unpruned ${signed(quality.difference)} ${difference}`);
  }
  if (known(quality.test)) lines.push(`on the test queries ${measureText(score, quality.test)}`);
  if (known(quality.held_out)) lines.push(`on the held-out data ${measureText(score, quality.held_out)}`);
  for (const entry of otherColumns(data).filter((e) => known(trial.values[e.name]))) {
    lines.push(`${escaped(entry.label)} ${escaped(measureText(entry, trial.values[entry.name]))}`);
  }
  lines.push(`trained in ${duration(valueOf(trial, 'training'))}${trial.seeds > 1 ? `; means over ${trial.seeds} seeds` : ''}`);
  return lines.join('<br>');
}

// The columns of the table of trials that have no place of their own in texts.
const otherColumns = (data) => data.measures.filter((entry) => entry.column && !Object.values(ROLES).includes(entry.name));

// One collapsed trial must not flatten the front: what lies far below it is drawn at the edge.
function rangeOf(trials, front) {
  const ys = (front.length ? front : trials).flatMap((t) => [valueOf(t, 'quality'), t.quality.low, t.quality.high, t.quality.test]).filter(known);
  const [least, most] = [Math.min(...ys), Math.max(...ys)];
  const lowest = Math.min(least, ...trials.map((t) => valueOf(t, 'quality')));
  const low = Math.max(lowest, least - 0.5 * Math.max(most - least, 0.05));
  const tall = Math.max(most - low, 0.02);
  return [low - 0.05 * tall, most + 0.06 * tall];
}

function markers(data, trials, axis, y, marker, more = {}) {
  return {
    type: 'scatter', mode: 'markers', x: trials.map((t) => onAxis(t, axis)), y: trials.map(y), marker,
    customdata: trials.map((t) => t.id), text: trials.map((t) => hoverText(data, t)),
    hovertemplate: '%{text}<extra></extra>', ...more,
  };
}

function steps(front, axis, xs) {
  // A trial dominates all that cost more and are worse: between two trials of the front the cheaper one's score holds.
  const points = front.map((t) => [onAxis(t, axis), valueOf(t, 'quality')]);
  if (points.length) points.push([MEASURES.get(axis).better < 0 ? xs[1] : xs[0], points[points.length - 1][1]]);
  return {
    type: 'scatter', mode: 'lines', x: points.map((p) => p[0]), y: points.map((p) => p[1]), hoverinfo: 'skip',
    line: { shape: 'hv', color: BLUE, width: 1.5 },
  };
}

function ring(data, state, low) {
  const chosen = measured(data, state.axis).filter((t) => t.id === state.selected);
  return markers(data, chosen, state.axis, (t) => Math.max(valueOf(t, 'quality'), low),
    { size: 24, color: GOLD, symbol: 'circle-open', line: { width: 3.5 } }, { hoverinfo: 'skip', hovertemplate: null });
}

// The ring is the last trace: choosing another trial moves it and draws nothing else anew.
function moveRing(data, state) {
  const chart = byId('front-chart');
  if (!chart.data) return;
  const { x, y } = ring(data, state, chart.layout.meta.low);
  Plotly.restyle(chart, { x: [x], y: [y] }, [chart.data.length - 1]);
}

// No significant difference from the next larger model of the search's own front.
const isNoise = (data, state, trial) => data.runs.length === 1 && ownAxes(data).includes(state.axis) && trial.significant === false;

function frontTraces(data, state, trials, front, xs, low) {
  const axis = state.axis;
  const several = data.runs.length > 1;
  const colour = (t) => (several ? RUN_COLOURS[t.run % RUN_COLOURS.length] : PALE);
  const onFront = new Set(front.map((t) => t.id));
  const behind = trials.filter((t) => !onFront.has(t.id));
  const below = (t) => valueOf(t, 'quality') < low;
  const unpruned = trials.filter((t) => t.trial === data.runs[t.run].unpruned);
  const y = (t) => Math.max(valueOf(t, 'quality'), low);
  const quiet = { hoverinfo: 'skip', hovertemplate: null };
  const error = (bound) => front.map((t) => (known(t.quality[bound]) ? Math.abs(t.quality[bound] - valueOf(t, 'quality')) : 0));
  return [
    markers(data, behind, axis, y, {
      size: behind.map((t) => (below(t) ? 9 : 7)), color: behind.map(colour), opacity: several ? 0.45 : 1,
      symbol: behind.map((t) => (below(t) ? 'triangle-down' : 'circle')),
    }),
    steps(front, axis, xs),
    markers(data, several ? [] : front.filter((t) => known(t.quality.test)), axis, (t) => t.quality.test,
      { size: 8, color: '#fff', symbol: 'diamond', line: { color: RED, width: 1.5 } }),
    markers(data, front, axis, y, { size: 10, color: front.map((t) => (several ? colour(t) : isNoise(data, state, t) ? LIGHT_BLUE : BLUE)), line: { color: '#fff', width: 1 } }, {
      error_y: {
        type: 'data', symmetric: false, array: error('high'), arrayminus: error('low'),
        color: 'rgba(0, 114, 178, 0.45)', thickness: 1.3, width: 3,
      },
    }),
    markers(data, data.objectives.length > 2 ? trials.filter((t) => t.on_front) : [], axis, y,
      { size: 15, color: BLUE, symbol: 'circle-open', line: { width: 1.4 } }, quiet),
    markers(data, trials.filter((t) => t.recipe), axis, y,
      { size: 14, color: GREEN, symbol: 'square-open', line: { width: 1.6 } }, quiet),
    markers(data, unpruned, axis, y, { size: 18, color: INK, symbol: 'circle-open', line: { width: 1.6 } }, quiet),
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
  const front = frontOf(trials, state.axis);
  const values = trials.map((t) => onAxis(t, state.axis));
  const wide = Math.max(Math.max(...values) - Math.min(...values), 0.05 * Math.max(...values));
  const xs = [Math.min(...values) - 0.05 * wide, Math.max(...values) + 0.05 * wide];
  const ys = rangeOf(trials, front);
  const traces = frontTraces(data, state, trials, front, xs, ys[0]);
  const frame = { uirevision: state.axis, meta: { low: ys[0] }, xaxis: { range: xs }, yaxis: { range: ys, tickformat: '.2f' } };
  Plotly.react('front-chart', traces, layout(MEASURES.get(state.axis).axis.title, withRole('quality').label, frame), SETTINGS);
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
    if (front.some((t) => isNoise(data, state, t))) add('circle', { fill: LIGHT_BLUE }, 'front, not significantly different from the next larger model');
    if (data.objectives.length > 2) add('ring', { stroke: BLUE }, 'front of all objectives');
    add('circle', { fill: PALE }, 'other trials');
  }
  if (data.runs.some((run) => run.unpruned)) add('ring', { stroke: INK }, 'unpruned model');
  if (data.trials.some((t) => t.recipe)) add('square', { stroke: GREEN }, 'EffiR\u2019s recipe: only the least important MLPs are dropped');
  if (data.runs.length === 1 && front.some((t) => known(t.quality.test))) add('diamond', { stroke: RED }, 'front on the test queries');
  add('ring', { stroke: GOLD, 'stroke-width': 3 }, 'selected');
  byId('legend').replaceChildren(...items);
}
