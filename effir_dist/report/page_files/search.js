// What the search found: figures on top, plans on the front, important search parameters, failed trials.

function tile(what, value, more, onclick = null) {
  const made = element(onclick ? 'button' : 'div', { className: 'tile' });
  if (onclick) Object.assign(made, { type: 'button', onclick });
  made.append(element('div', { className: 'what' }, what), element('div', { className: 'value' }, value), element('div', { className: 'more' }, more));
  return made;
}

// What stands behind the first share: 'total 84 %; '.
const restOf = (trial) => (known(valueOf(trial, 'block_share')) ? `${shareText(trial, 'share')}; ` : '');
const withoutEmbeddings = (trial) => (known(valueOf(trial, 'blocks')) ? `${countText(valueOf(trial, 'blocks'))} without embeddings; ` : '');

function safeTile(data, select) {
  const { safety } = data.runs[0];
  const safe = smallestSafe(data);
  if (!safe) return tile('Smallest safe model', NONE, safety.short);
  const judged = judgedOf(data, safe);
  const speed = data.measures.filter((m) => m.source === 'speed' && m.better > 0 && known(safe.values[m.name]) && m.unit.suffix === '×');
  const faster = speed.map((m) => `; ${m.label} ${measureText(m, safe.values[m.name])}`).join('');
  return tile('Smallest safe model', firstShare(safe),
    `${restOf(safe)}${signed(judged.value)} ${interval(judged.low, judged.high, true)} on ${safety.split}${faster}`, () => select(safe.id));
}

function drawTiles(data, select) {
  const complete = data.trials.filter(isComplete);
  const tiles = [];
  if (data.runs.length === 1 && complete.length) {
    const { label } = withRole('quality');
    const unpruned = unprunedOf(data, 0);
    if (unpruned) tiles.push(tile('Unpruned model', sizeText(unpruned), `${withoutEmbeddings(unpruned)}${label} ${qualityText(unpruned)}`, () => select(unpruned.id)));
    tiles.push(safeTile(data, select));
    const smallest = complete.reduce((best, t) => (t.on_front && (!best || valueOf(t, 'size') < valueOf(best, 'size')) ? t : best), null);
    if (smallest && smallest !== unpruned) {
      tiles.push(tile('Smallest on the front', firstShare(smallest), `${restOf(smallest)}${label} ${qualityText(smallest)}`, () => select(smallest.id)));
    }
    const seconds = data.trials.reduce((sum, t) => sum + (valueOf(t, 'total') || 0), 0);
    const failed = data.trials.length - complete.length;
    tiles.push(tile('Search', `${data.trials.length} trial${data.trials.length === 1 ? '' : 's'}`,
      `${duration(seconds)} in all${failed ? `, ${failed} failed` : ''}; hypervolume ${fixed(data.hypervolume, 3)}`));
  }
  byId('tiles').replaceChildren(...tiles);
}

// Several runs, side by side, with the reference point that they share.
function drawRuns(data) {
  const box = byId('runs');
  box.hidden = data.runs.length < 2;
  if (box.hidden) return;
  const front = data.trials.filter((t) => t.on_front);
  const quality = withRole('quality');
  const head = ['run', 'model', 'trials', `unpruned ${quality.label}`, 'on the common front', 'hypervolume', 'time of its trials'];
  const table = element('table', {}, element('thead', {}, element('tr', {}, ...head.map((text, i) => element('th', { className: i < 2 ? 'text' : '' }, text)))));
  const body = table.createTBody();
  data.runs.forEach((run, i) => {
    const unpruned = unprunedOf(data, i);
    const [cost, hypervolume] = run.hypervolume.length ? run.hypervolume[run.hypervolume.length - 1] : [0, 0];
    const values = [run.name, run.model, data.trials.filter((t) => t.run === i).length, unpruned ? qualityText(unpruned) : NONE,
      `${front.filter((t) => t.run === i).length} of ${front.length}`, fixed(hypervolume, 4), duration(cost)];
    body.append(element('tr', {}, ...values.map((value, j) => element('td', { className: j < 2 ? 'text' : '' }, String(value)))));
  });
  const cost = plainGoal(data) ? `${shortText(withRole('size'), data.reference[ROLES.size])} ${withRole('size').label}` : 'the unpruned model\u2019s costs';
  const reference = `Reference point of every hypervolume: ${cost}, ${quality.label} 0. `
    + `A hypervolume of 1 is ${plainGoal(data) ? `no ${withRole('size').label}` : 'no cost'} at ${quality.label} ${measureText(quality, data.reference[ROLES.quality])}. All runs together: ${fixed(data.hypervolume, 4)}.`;
  const warning = data.same_queries ? '' : ' The runs were not scored on the same queries and documents. Differences between them may come from the data.';
  box.replaceChildren(element('h2', {}, 'Runs compared'), element('div', { className: 'scroll' }, table), element('p', { className: 'note' }, reference + warning));
}

function cells(trial, run) {
  const made = element('span', { className: 'cells', style: `grid-template-columns: repeat(${run.blocks}, minmax(0, 1fr))` });
  const attention = new Set(trial.dropped_attention || []);
  (trial.mlp_widths || []).forEach((width, block) => {
    const cell = element('span', { className: `cell ${width ? 'kept' : 'gone'}${attention.has(block) ? ' attention' : ''}` }, width ? '' : '×');
    if (width) cell.style.opacity = String(0.12 + 0.88 * (width / run.full_width) ** 1.5);
    made.append(cell);
  });
  return made;
}

function footRow(left, values, second = false) {
  const row = element('span', { className: 'cells', style: `grid-template-columns: repeat(${values.length}, minmax(0, 1fr))` });
  row.append(...values.map((value) => element('span', { className: 'cell plain' }, String(value))));
  return element('div', { className: `plan foot${second ? ' second' : ''}` }, element('span', { className: 'left' }, left), row, element('span', {}));
}

function drawPlans(data, state, front, select) {
  const rows = [];
  data.runs.forEach((run, number) => {
    const own = front.filter((t) => t.run === number && (t.mlp_widths || []).length).reverse();
    if (!own.length) return;
    if (data.runs.length > 1) rows.push(element('h3', {}, run.name));
    for (const trial of own) {
      const right = element('span', { className: 'right' }, sizeText(trial), element('span', { className: 'more' }, `, ${fixed(valueOf(trial, 'quality'), 3)}${isNoise(data, state, trial) ? ' ~' : ''}`));
      const row = element('button', { type: 'button', className: `plan${trial.id === state.selected ? ' selected' : ''}`, title: planText(trial) },
        element('span', { className: 'left' }, trial.trial), cells(trial, run), right);
      row.onclick = () => select(trial.id);
      rows.push(row);
    }
    const blocks = Array.from({ length: run.blocks }, (_, block) => block);
    const dropped = (block) => own.filter((t) => t.dropped_mlp.includes(block)).length / own.length;
    rows.push(footRow('block', blocks));
    rows.push(footRow('dropped %', blocks.map((block) => Math.round(100 * dropped(block))), true));
    if (run.drop_order.length) rows.push(footRow('rank', blocks.map((block) => run.drop_order.indexOf(block) + 1), true));
  });
  const attention = front.some((t) => (t.dropped_attention || []).length);
  const noise = front.some((t) => isNoise(data, state, t)) ? '~ marks a model that is not significantly different from the row above. ' : '';
  const note = `${noise}Each row is a model on the front, the smallest last. Each cell is the MLP of a block. It is pale where the MLP is narrow, and × where it is dropped`
    + `${attention ? '. A gold foot marks a dropped attention' : ''}. Dropped %: share of the rows above. `
    + 'Rank: the MLP\u2019s place by importance in the unpruned model. EffiR\u2019s recipe drops rank 1 first.';
  byId('plans').hidden = !rows.length;
  byId('plan-rows').replaceChildren(...rows, element('p', { className: 'note' }, note));
}

function drawImportances(data) {
  const parts = [];
  for (const run of data.runs) {
    if (data.runs.length > 1) parts.push(element('h3', {}, run.name));
    if (!run.importances.length) {
      parts.push(element('p', { className: 'note' }, 'Shown from 10 complete trials on.'));
      continue;
    }
    const most = run.importances[0][1] || 1;
    const bars = element('div', { className: 'bars' });
    for (const [name, value] of run.importances.slice(0, 12)) {
      const bar = element('div', { className: 'bar', style: `width: ${(100 * value) / most}%` });
      bars.append(element('span', {}, name), element('div', {}, bar), element('span', { className: 'share' }, percent(value, 0)));
    }
    parts.push(bars);
    if (run.importances.length > 12) parts.push(element('p', { className: 'note' }, `and ${run.importances.length - 12} of less importance`));
  }
  parts.push(element('p', { className: 'note' }, `How much each search parameter distinguishes the best tenth of the trials by ${withRole('quality').label} from all (PED-ANOVA). `
    + 'drop_mlp.3 is whether the MLP of block 3 is dropped. With few trials this is no more than a hint.'));
  byId('importances').replaceChildren(...parts);
}

function drawFailed(data, select) {
  const failed = data.trials.filter((t) => t.state === 'failed');
  const box = byId('failed');
  box.hidden = !failed.length;
  const table = element('table', {}, element('thead', {}, element('tr', {}, ...['trial', 'plan', 'reason'].map((text) => element('th', { className: `text ${text}-cell` }, text)))));
  const body = table.createTBody();
  for (const trial of failed) {
    const link = element('button', { type: 'button' }, trialName(data, trial));
    link.onclick = () => select(trial.id);
    body.append(element('tr', {}, element('td', { className: 'text' }, link), element('td', { className: 'text long plan-cell' }, planText(trial)),
      element('td', { className: 'text long' }, trial.reason || 'no reason was given')));
  }
  box.replaceChildren(element('h2', {}, `Failed trials (${failed.length})`), element('div', { className: 'scroll' }, table));
}
