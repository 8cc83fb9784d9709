// All trials, to sort and to filter.

const text = (value) => ({ sort: value, shown: value });

const columnOf = (entry, more, value) => ({ ...more, value: (t) => ({ sort: value(t), shown: numberText(entry, value(t)) }) });

// A measure's column, headed by its unit. Those without a role are left out where no trial has a value.
// short: what a filter may call the column besides its name in trials.csv. screen: left out on paper.
function measureColumn(entry) {
  const unit = entry.unit.suffix.trim();
  const more = {
    name: entry.name, short: entry.short, head: entry.head + (unit ? `\n(${unit})` : ''), scale: entry.unit.scale,
    optional: !Object.values(ROLES).includes(entry.name) || entry.name === ROLES.block_share, screen: entry.name === ROLES.total,
  };
  return columnOf(entry, more, (t) => t.values[entry.name]);
}

// The quality with its difference from the unpruned model, and on other queries.
function qualityColumns() {
  const entry = withRole('quality');
  return [
    measureColumn(entry),
    { name: `${entry.name}_difference`, short: 'difference', head: 'against\nunpruned', value: (t) => ({ sort: t.quality.difference, shown: signed(t.quality.difference, entry.unit.digits) }) },
    columnOf(entry, { name: `test_${entry.name}`, short: 'test', head: 'on test' }, (t) => t.quality.test),
    columnOf(entry, { name: `held_out_${entry.name}`, short: 'held', head: 'held\nout', optional: true }, (t) => t.quality.held_out),
  ];
}

const PLAN_COLUMNS = [
  { name: 'dropped_mlp', head: 'MLPs\ndropped', left: true, value: (t) => listed(t.dropped_mlp) },
  { name: 'dropped_attention', head: 'attentions\ndropped', left: true, optional: true, value: (t) => listed(t.dropped_attention) },
  { name: 'width_ratio', short: 'width', head: 'width of\nthe rest (%)', scale: 100, value: (t) => ({ sort: t.width_ratio, shown: known(t.width_ratio) ? (100 * t.width_ratio).toFixed(0) : NONE }) },
];

function listed(blocks) {
  return { sort: blocks && blocks.length ? blocks.length : 0, shown: blocks && blocks.length ? blocks.join(', ') : blocks ? 'none' : NONE };
}

// The columns that say something about these trials, with those of the settings that varied.
function columnsOf(data) {
  const settings = [...new Set(data.trials.flatMap((t) => Object.keys(t.settings)))];
  const varied = settings.map((name) => ({
    name, screen: true, head: name.replace('.', '.\n'), value: (t) => ({ sort: t.settings[name], shown: t.settings[name] === undefined ? NONE : String(t.settings[name]) }),
  }));
  const useful = (column) => !column.optional || data.trials.some((t) => ![NONE, 'none'].includes(column.value(t, data).shown));
  const from = (source) => data.measures.filter((m) => m.column && m.source === source && m.name !== ROLES.quality).map(measureColumn);
  const columns = [
    { name: 'trial', head: 'trial', left: true, value: (t) => text(trialName(data, t)) },
    { name: 'stage', head: 'stage', left: true, optional: true, value: (t) => ({ sort: t.stage, shown: t.stage || NONE }) },
    ...from('plan'), ...qualityColumns(), ...from('quality'), ...from('speed'), ...PLAN_COLUMNS, ...from('clock'),
  ];
  return [...columns.filter(useful), ...varied];
}

const COMPARISONS = {
  '<': (a, b) => a < b, '<=': (a, b) => a <= b, '>': (a, b) => a > b, '>=': (a, b) => a >= b, '=': (a, b) => Math.abs(a - b) < 1e-9,
};

// 'front share<50 memory' -> a test of a trial, or null where a condition names no column.
function filterOf(words, columns, data, onFront) {
  const kinds = {
    front: (t) => onFront.has(t.id), complete: isComplete, failed: (t) => t.state === 'failed', recipe: (t) => t.recipe,
  };
  const tests = [];
  for (const word of words.toLowerCase().replace(/\s*(<=|>=|<|>|=)\s*/g, '$1').split(/\s+/).filter(Boolean)) {
    const condition = word.match(/^([a-z_@.0-9]+)(<=|>=|<|>|=)(-?[0-9.]+(?:e-?[0-9]+)?)$/);
    if (condition) {
      const column = columns.find((c) => [c.name, c.short].includes(condition[1]));
      if (!column) return null;
      const sides = (t) => [column.value(t, data).sort * (column.scale || 1), Number(condition[3])];
      tests.push((t) => known(column.value(t, data).sort) && COMPARISONS[condition[2]](...sides(t)));
    } else if (Object.hasOwn(kinds, word)) tests.push(kinds[word]);
    else tests.push((t) => searchable(t, columns, data).includes(word));
  }
  return (trial) => tests.every((test) => test(trial));
}

function searchable(trial, columns, data) {
  return [...columns.map((c) => c.value(trial, data).shown), planText(trial), trial.reason || '', trial.state].join(' ').toLowerCase();
}

function inOrder(trials, column, direction, data) {
  const missing = (value) => value === null || value === undefined || value === NONE;
  const rows = trials.map((trial, place) => [column.value(trial, data).sort, place, trial]);
  rows.sort(([a, i], [b, j]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b) || i - j;
    return direction * (a < b ? -1 : a > b ? 1 : 0) || i - j;
  });
  return rows.map((row) => row[2]);
}

const classOf = (column) => `${column.left ? 'text' : ''}${column.screen ? ' screen' : ''}`;

function headOf(columns, state, redraw) {
  const row = element('tr', {});
  for (const column of columns) {
    const button = element('button', { type: 'button' }, column.head);
    button.onclick = () => {
      state.sort = { name: column.name, direction: state.sort.name === column.name ? -state.sort.direction : column.left ? 1 : -1 };
      redraw();
    };
    const head = element('th', { className: classOf(column), scope: 'col' }, button);
    if (state.sort.name === column.name) head.setAttribute('aria-sort', state.sort.direction > 0 ? 'ascending' : 'descending');
    row.append(head);
  }
  return element('thead', {}, row);
}

function drawTable(data, state, front, select) {
  const redraw = () => keepingFocus(() => drawTable(data, state, front, select));
  const columns = columnsOf(data);
  const column = columns.find((c) => c.name === state.sort.name) || columns[0];
  const chosen = filterOf(state.filter, columns, data, new Set(front.map((t) => t.id)));
  const rows = inOrder(data.trials.filter(chosen || (() => true)), column, state.sort.direction, data);
  const body = element('tbody', {});
  for (const trial of rows) {
    const row = element('tr', { className: trial.state === 'failed' ? 'failed' : '' });
    row.dataset.id = trial.id;
    row.tabIndex = -1;
    for (const c of columns) row.append(element('td', { className: classOf(c) }, c.value(trial, data).shown));
    body.append(row);
  }
  body.onclick = (event) => select(event.target.closest('tr').dataset.id);
  body.onkeydown = (event) => onKey(event, [...body.rows], select);
  byId('trials').replaceChildren(headOf(columns, state, redraw), body);
  markRow(state.selected);
  byId('shown').textContent = chosen ? `${rows.length} of ${data.trials.length} trials.` : 'No column has that name, so all trials are shown.';
}

// Arrows go from row to row, Enter and the space bar choose one: of a thousand rows the tab key stops at one.
function onKey(event, rows, select) {
  const at = rows.indexOf(event.target);
  if (at < 0 || event.ctrlKey || event.metaKey || event.altKey) return;
  const goes = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: rows.length - 1 };
  if (event.key in goes) {
    const next = rows[goes[event.key]];
    if (next) {
      stopAt(next);
      next.focus();
    }
  } else if (event.key === 'Enter' || event.key === ' ') select(event.target.dataset.id);
  else return;
  event.preventDefault();
}

// The row at which the tab key stops.
function stopAt(row) {
  for (const other of byId('trials').querySelectorAll('tr[tabindex="0"]')) other.tabIndex = -1;
  row.tabIndex = 0;
}

// A new choice changes two rows, not a thousand.
function markRow(id) {
  for (const row of byId('trials').querySelectorAll('tr.selected')) {
    row.classList.remove('selected');
    row.removeAttribute('aria-current');
  }
  const rows = [...byId('trials').tBodies].flatMap((body) => [...body.rows]);
  const row = rows.find((r) => r.dataset.id === id);
  if (row) {
    row.classList.add('selected');
    row.setAttribute('aria-current', 'true');
  }
  if (row || rows[0]) stopAt(row || rows[0]);
}
