// The reader's choices; everything is drawn again when the data or a choice changes.

const REFRESH = 4000; // milliseconds between two requests to a running search

let data = JSON.parse(byId('data').textContent);
let front = [];
readMeasures(data);
const state = { axis: firstAxis(data), selected: null, sort: { name: 'trial', direction: 1 }, filter: '' };

function firstChoice() {
  const onFront = frontOf(measured(data, state.axis), state.axis);
  return (smallestSafe(data) || onFront[Math.floor(onFront.length / 2)] || data.trials[0] || {}).id || null;
}

function select(id) {
  state.selected = id;
  moveRing(data, state);
  drawTrial(data, state, front);
  keepingFocus(() => drawPlans(data, state, front, select));
  markRow(id);
}

function drawAxisChoice() {
  const usable = axes(data).map((entry) => entry.name).filter((name) => measured(data, name).length);
  usable.sort((a, b) => (b === firstAxis(data)) - (a === firstAxis(data)));
  const options = usable.length ? usable : [ROLES.size];
  if (!options.includes(state.axis)) [state.axis] = options;
  byId('axis').replaceChildren(...options.map((axis) => element('option', { value: axis }, MEASURES.get(axis).label)));
  byId('axis').value = state.axis;
}

function drawFrontNote() {
  const intervals = data.trials.some((t) => known(t.quality.low));
  byId('front-note').textContent = `${data.runs.length > 1 ? 'One front of all runs. ' : ''}Each point is one pruned, fine-tuned and scored model. Click one to see it. `
    + `${intervals ? 'Bars are 95 % intervals over queries, and over seeds where trials were repeated. ' : ''}`
    + `${data.objectives.length > 2 ? `The search has three objectives (${data.objectives.map((name) => MEASURES.get(name).label).join(', ')}). The line is the front of the two that are drawn. ` : ''}`
    + `${data.constraints.length ? `Only trials with ${data.constraints.join(' and ')} can be on a front. ` : ''}`
    + `${data.runs[0].ended && !data.live ? `The search ended: ${data.runs[0].ended}. ` : ''}`
    + MEASURES.get(state.axis).note;
}

// On how many queries and documents the scores are measured: a part of a corpus is easier than all of it.
function scoredOn(run, named) {
  const { label } = withRole('quality');
  const names = { search: label, test: `${label} on test queries`, held_out: `${label} on held-out data` };
  const parts = Object.entries(run.scored_on).map(([split, text]) => `${names[split]} is measured on: ${text}.`);
  const all = [...parts, ...[...run.left_out, ...run.faults].map((line) => `${line}.`)].join(' ');
  return all && named ? `${run.name}: ${all}` : all;
}

// The trials that were asked for, then those beside them: '12 of 12 trials', '1 base', '8 full recoveries'.
function counted(trials, wanted) {
  const kind = (t) => (t.repeat_of ? 'repeat' : !t.stage ? 'own' : t.stage === 'base' ? 'base' : 'recovery');
  const count = (name) => trials.filter((t) => kind(t) === name).length;
  const beside = [['base', 'base', 'bases'], ['recovery', 'full recovery', 'full recoveries'], ['repeat', 'repeat', 'repeats']];
  const more = beside.map(([name, one, many]) => [count(name), one, many]).filter(([n]) => n);
  return [`${count('own')} of ${wanted} trials`, ...more.map(([n, one, many]) => `${n} ${n > 1 ? many : one}`)];
}

function drawHeader() {
  const runs = data.runs;
  const one = runs[0];
  byId('title').textContent = runs.length > 1 ? runs.map((run) => run.name).join(' and ') : `Pruned ${one.model} on ${one.data}`;
  const wanted = runs.reduce((sum, run) => sum + (Number(run.wanted) || 0), 0);
  const pending = runs.reduce((sum, run) => sum + run.pending, 0);
  const parts = [runs.length > 1 ? `${runs.length} runs` : `run ${one.name}`, ...counted(data.trials, wanted)];
  if (pending) parts.push(`${pending} under way or waiting`);
  const screened = runs.reduce((sum, run) => sum + run.screened, 0);
  if (screened) parts.push(`${screened} more plans screened on part of the data and not trained in full (rungs.csv)`);
  parts.push(`as of ${new Date(data.generated).toLocaleString('en-GB', { dateStyle: 'medium', timeStyle: 'short' })}`);
  byId('subtitle').textContent = parts.join(' · ');
  byId('safety').textContent = runs.map((run) => (runs.length > 1 ? `${run.name}: ` : '') + run.safety.text).join(' ');
  byId('scored-on').textContent = runs.map((run) => scoredOn(run, runs.length > 1)).filter(Boolean).join(' ');
  byId('footer').textContent = runs.map((run) => run.command).filter(Boolean).map((command) => `Made by: ${command}`).join(' · ');
}

function draw() {
  if (!data.trials.some((t) => t.id === state.selected)) state.selected = firstChoice();
  drawHeader();
  drawAxisChoice();
  drawTiles(data, select);
  drawRuns(data);
  front = drawFront(data, state);
  listenToChart();
  drawFrontNote();
  drawLegend(data, state, front);
  drawTrial(data, state, front);
  drawPlans(data, state, front, select);
  drawHypervolume(data);
  drawImportances(data);
  drawFailed(data, select);
  drawTable(data, state, front, select);
  const space = data.objectives.length > 2 ? 'Volume' : 'Area';
  byId('hypervolume-note').textContent = `${space} under the front, as a share of ${plainGoal(data) ? 'size' : 'cost'} times quality of the unpruned model. More is better. Failed trials count in the time.`;
}

// Whether the search goes by size and quality alone.
const plainGoal = (data) => data.objectives.every((name) => [ROLES.size, ROLES.quality].includes(name));

// Plotly has events only once there is a plot; a search that has just begun has none.
function listenToChart() {
  const chart = byId('front-chart');
  if (!chart.on || chart.dataset.heard) return;
  chart.dataset.heard = 'yes';
  chart.on('plotly_click', (event) => {
    const point = event.points.find((p) => p.customdata);
    if (point) select(point.customdata);
  });
}

function listen() {
  byId('axis').onchange = (event) => {
    state.axis = event.target.value;
    draw();
  };
  byId('filter').oninput = (event) => {
    state.filter = event.target.value;
    drawTable(data, state, front, select);
  };
}

// Paper is narrower than a screen, and plotly draws in pixels.
function fitToPaper() {
  const charts = [...document.querySelectorAll('.js-plotly-plot')];
  const fit = (printing) => charts.forEach((chart) => (printing ? Plotly.relayout(chart, { width: 660, autosize: false }) : Plotly.relayout(chart, { width: null, autosize: true })));
  addEventListener('beforeprint', () => fit(true));
  addEventListener('afterprint', () => fit(false));
}

async function refresh() {
  const notice = byId('notice');
  try {
    const answer = await fetch(`data.json?known=${encodeURIComponent(data.stamp)}`, { cache: 'no-store' });
    if (answer.status === 200) {
      data = await answer.json();
      readMeasures(data);
      keepingFocus(draw);
    }
    const problem = answer.status >= 400 ? await answer.text() : '';
    notice.textContent = problem;
    notice.hidden = !problem;
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    notice.textContent = 'The command that serves this page has ended. This is its last state.';
    notice.hidden = false;
  }
  setTimeout(refresh, REFRESH);
}

draw();
listen();
fitToPaper();
if (data.live) setTimeout(refresh, REFRESH);
