// The selected trial: its plan block by block, its scores, what it cost, and the command that exports it.

// Width of each MLP, as a bar a block; what is gone, crossed out. Attention below.
function blocksDrawing(trial, fullWidth) {
  const widths = trial.mlp_widths || [];
  if (!widths.length || !fullWidth) return null;
  const gone = new Set(trial.dropped_attention || []);
  const [step, tall, left, top] = [Math.max(11, Math.min(44, 380 / widths.length)), 96, 30, 8];
  const bar = step * 0.74;
  const wide = left + step * widths.length + 4;
  const made = drawing('svg', {
    viewBox: `0 0 ${wide} ${tall + top + 52}`, class: 'blocks', role: 'img', style: `max-width: ${Math.max(wide * 1.25, 240)}px`,
    'aria-label': `Width of each block's MLP: ${planText(trial)}`,
  });
  for (const [share, y] of [[100, top], [50, top + tall / 2], [0, top + tall]]) {
    made.append(drawing('line', { x1: left, x2: wide, y1: y, y2: y, stroke: GRID }));
    made.append(drawing('text', { x: left - 5, y: y + 4, 'text-anchor': 'end' }, `${share}`));
  }
  const every = Math.ceil(22 / step);
  widths.forEach((width, block) => {
    const x = left + step * block + (step - bar) / 2;
    const title = width ? `block ${block}: ${width} of ${fullWidth} neurons (${percent(width / fullWidth, 0)})` : `block ${block}: MLP dropped`;
    made.append(blockBar(x, bar, width / fullWidth, tall, top, title));
    made.append(attentionMark(x, bar, top + tall + 8, gone.has(block), block));
    if (block % every === 0) {
      made.append(drawing('text', { x: x + bar / 2, y: top + tall + 36, 'text-anchor': 'middle' }, `${block}`));
    }
  });
  made.append(drawing('text', { x: left + (step * widths.length) / 2, y: top + tall + 50, 'text-anchor': 'middle' }, 'block'));
  return made;
}

function blockBar(x, wide, share, tall, top, title) {
  const group = drawing('g', {}, drawing('title', {}, title));
  if (share > 0) {
    group.append(drawing('rect', { x, y: top, width: wide, height: tall, fill: '#e6eef4' }));
    group.append(drawing('rect', { x, y: top + tall * (1 - share), width: wide, height: tall * share, fill: BLUE }));
    return group;
  }
  group.append(drawing('rect', { x: x + 0.75, y: top + 0.75, width: wide - 1.5, height: tall - 1.5, fill: '#fff', stroke: RED, 'stroke-width': 1.5 }));
  group.append(drawing('path', { d: `M${x} ${top + tall}L${x + wide} ${top}M${x} ${top}L${x + wide} ${top + tall}`, stroke: RED, 'stroke-width': 1 }));
  return group;
}

function attentionMark(x, wide, y, gone, block) {
  const group = drawing('g', {}, drawing('title', {}, `block ${block}: attention ${gone ? 'dropped' : 'kept'}`));
  group.append(drawing('rect', { x: x + 0.75, y, width: wide - 1.5, height: 10, fill: gone ? '#fff' : '#9fb3c1', stroke: gone ? RED : 'none', 'stroke-width': 1.5 }));
  if (gone) group.append(drawing('path', { d: `M${x + 1} ${y + 10}L${x + wide - 1} ${y}`, stroke: RED, 'stroke-width': 1.5 }));
  return group;
}

function figures(rows) {
  const list = element('dl', { className: 'figures' });
  for (const [name, ...values] of rows) list.append(element('dt', {}, name), element('dd', {}, ...values));
  return list;
}

function differenceParts(row, prefix = '') {
  const [value, low, high] = ['difference', 'difference_low', 'difference_high'].map((name) => row[prefix + name]);
  if (!known(value)) return [NONE];
  const kind = low > 0 ? 'same' : high < 0 ? 'worse' : '';
  return [element('span', { className: kind }, signed(value)), ' ', element('span', { className: 'interval' }, interval(low, high, true))];
}

const SPLITS = { search: '', test: ', test', held_out: ', held out' };

// '300 of 2,848', or '2,848' where nothing was left out.
function countOf(count, all) {
  if (!known(count)) return NONE;
  const text = count.toLocaleString('en-GB');
  return count < all ? `${text} of ${all.toLocaleString('en-GB')}` : text;
}

function scoresTable(trial, isUnpruned) {
  const quality = withRole('quality');
  const sets = trial.scores.filter((row) => row.dataset !== '*');
  const order = Object.keys(SPLITS);
  const rows = [...trial.scores].sort((a, b) => order.indexOf(a.split) - order.indexOf(b.split));
  // The mean over one data set is that data set.
  const shown = rows.filter((row) => row.dataset !== '*' || sets.filter((other) => other.split === row.split).length > 1);
  if (!shown.length) return element('p', { className: 'note' }, 'No per-query scores are on disk, so there are no intervals.');
  const table = element('table', { className: 'small' });
  const head = ['data', 'queries', 'documents', quality.label, isUnpruned ? '95 % interval' : 'against unpruned'];
  const kinds = ['text', 'count', 'count', '', ''];
  table.append(element('thead', {}, element('tr', {}, ...head.map((text, i) => element('th', { className: kinds[i] }, text)))));
  const body = table.createTBody();
  for (const row of shown) {
    const name = row.dataset === '*' ? 'mean' : row.dataset;
    const second = isUnpruned ? [element('span', { className: 'interval' }, interval(row.low, row.high))] : differenceParts(row);
    body.append(element('tr', {},
      element('td', { className: 'text' }, name + SPLITS[row.split]),
      element('td', { className: 'count' }, countOf(row.queries, row.all_queries)),
      element('td', { className: 'count' }, countOf(row.documents, row.all_documents)),
      element('td', {}, measureText(quality, row.value)), element('td', {}, ...second)));
  }
  return element('div', { className: 'scroll' }, table);
}

// Of a speed, as a multiple of the unpruned model's in the same run.
function againstUnpruned(trial, unpruned, entry) {
  const [own, other] = [trial, unpruned].map((t) => (t ? t.values[entry.name] : null));
  const compared = entry.source === 'clock' && entry.better > 0 && known(other) && unpruned !== trial;
  return compared ? ` (${(own / other).toFixed(2)}× unpruned)` : '';
}

function costRows(data, trial, unpruned) {
  const shown = data.measures.filter((m) => !m.quality && (m.source !== 'plan' || otherColumns(data).includes(m)));
  const rows = shown.filter((m) => known(trial.values[m.name])).map((m) => [
    m.label, longText(m, trial.values[m.name]) + againstUnpruned(trial, unpruned, m),
  ]);
  if (trial.steps) rows.push(['training steps', String(trial.steps)]);
  for (const [name, value] of Object.entries(trial.settings)) rows.push([name, String(value)]);
  return rows;
}

function commandLine(text) {
  const code = element('code', {}, text);
  const box = element('div', { className: 'command' }, code);
  if (navigator.clipboard) {
    const button = element('button', { type: 'button' }, 'Copy');
    button.onclick = () => navigator.clipboard.writeText(text).then(
      () => { button.textContent = 'Copied'; },
      () => { getSelection().selectAllChildren(code); },
    );
    box.append(button);
  }
  return box;
}

function safetyRows(data, trial) {
  const judged = judgedOf(data, trial);
  if (!judged) return [];
  const { safety } = data.runs[trial.run];
  const range = interval(judged.low, judged.high, true);
  const verdict = judged.safe === null ? ' too few queries' : judged.safe ? ' safe' : ' not safe';
  return [[`against unpruned ${safety.reference}, ${safety.split} queries`, `${signed(judged.value)} `,
    element('span', { className: 'interval' }, range), element('span', { className: judged.safe ? 'same' : '' }, verdict)]];
}

function drawTrial(data, state, front) {
  const panel = byId('trial');
  const trial = data.trials.find((t) => t.id === state.selected);
  if (!trial) {
    panel.replaceChildren(element('h2', {}, 'No trial is selected'), element('p', { className: 'note' }, 'Choose one in the plot or in the table.'));
    return;
  }
  const unpruned = unprunedOf(data, trial.run);
  const badges = element('span', { className: 'badges' });
  if (front.includes(trial)) badges.append(element('span', { className: 'badge front' }, 'on the front'));
  if (data.runs[trial.run].safety.smallest === trial.trial) badges.append(element('span', { className: 'badge recipe' }, 'smallest safe'));
  if (trial.recipe) badges.append(element('span', { className: 'badge recipe' }, 'EffiR\u2019s recipe'));
  if (trial.state === 'failed') badges.append(element('span', { className: 'badge failed' }, 'failed'));
  const parts = [
    element('div', { className: 'head' }, element('h2', {}, `Trial ${trialName(data, trial)}`), badges),
    element('p', { className: 'plan-line' }, planText(trial)),
  ];
  if (trial.state === 'failed') parts.push(element('p', { className: 'worse' }, trial.reason || 'No reason was given.'));
  for (const [name, reason] of [['test', trial.quality.test_failed], ['held-out', trial.quality.held_out_failed]]) {
    if (reason) parts.push(element('p', { className: 'worse' }, `No score on the ${name} data: ${reason}`));
  }
  const rows = [];
  const quality = withRole('quality');
  for (const [role, share] of [['blocks', 'block_share'], ['size', 'share']]) {
    const value = valueOf(trial, role);
    if (known(value)) {
      const left = element('span', { className: 'whole' }, `(${percent(valueOf(trial, share))})`);
      rows.push([withRole(role).label, `${measureText(withRole(role), value)} `, left]);
    }
  }
  if (trial.stage) rows.push(['stage', trial.stage]);
  if (isComplete(trial)) {
    const range = interval(trial.quality.low, trial.quality.high);
    rows.push([quality.label, `${qualityText(trial)} `, element('span', { className: 'interval' }, range)]);
    rows.push(...safetyRows(data, trial));
    if (trial.seeds > 1) rows.push(['trainings', `means over ${trial.seeds} seeds`]);
    if (trial.repeat_of) rows.push(['repeats', `trial ${trial.repeat_of}, with another seed`]);
    if (known(trial.step)) {
      const step = interval(trial.step_low, trial.step_high, true);
      rows.push(['against the next larger on the front', `${signed(trial.step)} `, element('span', { className: 'interval' }, step),
        trial.significant ? '' : ' not significant']);
    }
  }
  parts.push(figures(rows), element('h3', {}, 'MLP width kept (%), and attention below'), blocksDrawing(trial, data.runs[trial.run].full_width));
  if (isComplete(trial)) {
    parts.push(element('h3', {}, `${quality.label} by data set`), scoresTable(trial, trial === unpruned));
    parts.push(element('h3', {}, 'Cost'), figures(costRows(data, trial, unpruned)), element('h3', {}, 'Export'));
    parts.push(trial.export ? commandLine(trial.export) : element('p', { className: 'note' },
      'Its weights were not kept. search.keep_weights=front keeps those of the front, and all those of every trial.'));
  }
  panel.replaceChildren(...parts.filter((part) => part !== null));
}
