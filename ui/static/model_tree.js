// The tree of a model's modules, in which targets are checked. ui/pages/model_tree.py makes its data and reads its value.
//
// A row stands for one module in every block that is alike, or, under "one by one", in one block alone. What is checked
// is kept as the numbers of modules by the path of their row, and is the component's value, as JSON: {path: true} for
// all of a row's modules, {path: [0, 3]} for some. Names come from files: they are only ever set as text.

globalThis.moduleTree = (element, props, trigger, watch) => {
  const shell = element.querySelector('.module-tree');
  let data = null, rank = 1, source = '', emitted = null;
  let checked = new Map();          // path -> Set of module numbers
  let rows = [];                    // every row that is drawn: {view, item, ...}
  let last = null;                  // the block that was last switched, for Shift
  let telling = 0;

  // -- what a row stands for ------------------------------------------------------------------------------------

  // A view is a node with some of its block numbers settled: `at` has the place of each settled one, or null.
  const prepare = (node, folds) => {
    const inner = node.kind === 'blocks' ? [...folds, node.numbers] : folds;
    node.folds = inner;
    node.parts = node.children.filter((child) => child.kind === 'part');
    for (const part of node.parts) part.whole = node;
    for (const child of node.children) prepare(child, inner);
  };
  const modules = (node, at) => node.folds.reduce(
    (found, numbers, level) => found.flatMap((before) => {
      const settled = at[level] ?? null;
      const places = settled === null ? numbers.map((_, place) => place) : [settled];
      return places.map((place) => before * numbers.length + place);
    }), [0]);
  const targets = (node) => [
    ...(node.target && node.kind !== 'part' ? [node] : []), ...node.children.flatMap(targets)];
  // What a group's box switches: its linear layers; where it has none, all that can be a target.
  const meant = (node) => {
    if (node.target) return [node];
    const all = targets(node), linear = all.filter((leaf) => leaf.kind === 'linear');
    return linear.length ? linear : all;
  };
  const has = (node, module) => checked.get(node.path)?.has(module) ?? false;
  const put = (node, module, on) => {
    if (!checked.has(node.path)) checked.set(node.path, new Set());
    checked.get(node.path)[on ? 'add' : 'delete'](module);
  };
  const isOn = (node, module) => has(node, module) || (node.whole !== undefined && has(node.whole, module));
  const isTouched = (node, module) => isOn(node, module) || node.parts.some((part) => has(part, module));

  const state = ({node, at}) => {
    const every = meant(node).every((leaf) => modules(leaf, at).every((module) => isOn(leaf, module)));
    if (every) return 'true';
    const leaves = node.kind === 'part' ? [node] : targets(node);
    return leaves.some((leaf) => modules(leaf, at).some((module) => isTouched(leaf, module))) ? 'mixed' : 'false';
  };
  const set = (leaf, module, on) => {
    if (leaf.kind !== 'part') {
      put(leaf, module, on);
      for (const part of leaf.parts) put(part, module, false);
    } else if (!has(leaf.whole, module)) {
      put(leaf, module, on);
    } else if (!on) {               // one part out of a whole leaves the others
      put(leaf.whole, module, false);
      for (const part of leaf.whole.parts) put(part, module, part !== leaf);
    }
  };
  const switchTo = ({node, at}, on) => {
    const leaves = on || node.kind === 'part' ? meant(node) : targets(node);
    for (const leaf of leaves) for (const module of modules(leaf, at)) set(leaf, module, on);
  };

  // -- the value ------------------------------------------------------------------------------------------------

  const everyLeaf = (node) => [...(node.target ? [node] : []), ...node.children.flatMap(everyLeaf)];
  const value = () => {
    const said = {};
    for (const leaf of everyLeaf(data)) {
      const found = [...(checked.get(leaf.path) ?? [])].sort((a, b) => a - b);
      if (found.length) said[leaf.path] = found.length === modules(leaf, []).length ? true : found;
    }
    return JSON.stringify(said);
  };
  const take = (text) => {
    checked = new Map();
    const said = text ? JSON.parse(text) : {};
    for (const leaf of everyLeaf(data)) {
      if (!Object.hasOwn(said, leaf.path)) continue;
      checked.set(leaf.path, new Set(said[leaf.path] === true ? modules(leaf, []) : said[leaf.path]));
    }
  };
  const change = (view, on) => {
    switchTo(view, on);
    paint();
    emitted = value();
    props.value = emitted;
    clearTimeout(telling);          // clicks in quick succession are one event, so that no answer is overtaken
    telling = setTimeout(() => trigger('input'), 60);
  };

  // -- drawing --------------------------------------------------------------------------------------------------

  const make = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text) made.textContent = text;
    return made;
  };
  const short = (number) => {
    for (const [limit, by, unit] of [[1e9, 1e9, ' B'], [1e6, 1e6, ' M'], [1e4, 1e3, ' k']]) {
      if (number >= limit) return (number / by).toFixed(1) + unit;
    }
    return number.toLocaleString('en');
  };
  const cost = ({node, at}) =>
    rank * meant(node).reduce((sum, leaf) => sum + leaf.per_rank * modules(leaf, at).length, 0);
  const stack = (node) => node.path.split('.').at(-2) ?? '';

  const inside = ({node, at, level}) => {
    const here = {at, level: level + 1};
    const children = node.children.map((child) => ({...here, node: child, name: child.name}));
    const isSettled = (at[node.folds.length - 1] ?? null) !== null;
    if (node.kind !== 'blocks' || isSettled) return children;
    return [...children, {...here, node, name: 'One by one', isList: true}];
  };
  const blocks = ({node, at, level}) => {
    const outer = node.folds.slice(0, -1).map((_, depth) => at[depth] ?? null);
    return node.numbers.map((number, place) => (
      {node, at: [...outer, place], level: level + 1, name: `${stack(node)}.${number}`, block: number}));
  };
  const childrenOf = (view) => (view.isList ? blocks(view) : inside(view));

  const draw = (view, open) => {
    const item = make('li');
    item.setAttribute('role', 'treeitem');
    item.setAttribute('aria-level', view.level);
    item.tabIndex = -1;
    item.dataset.path = view.node.path;
    const row = item.appendChild(make('div', 'module-row'));
    row.style.setProperty('--level', view.level - 1);
    const children = childrenOf(view);
    row.appendChild(make('span', children.length ? 'twist' : 'no-twist'));
    const canBeChecked = !view.isList && targets(view.node).length + (view.node.kind === 'part') > 0;
    if (canBeChecked) row.appendChild(make('span', 'box'));
    row.appendChild(make('span', 'module-name', view.name));
    const about = row.appendChild(make('span', 'about'));
    if (view.node.size && view.block === undefined && !view.isList) about.appendChild(make('span', 'size', view.node.size));
    const note = about.appendChild(make('span', 'note'));
    const adds = row.appendChild(make('span', 'adds'));
    const drawn = {view, item, note, adds, canBeChecked, group: null, children};
    if (!canBeChecked) item.classList.add(view.isList ? 'list' : 'no-target');
    rows.push(drawn);
    item.drawn = drawn;
    if (children.length) unfold(drawn, open(view), open);
    return item;
  };
  const unfold = (drawn, on, open = () => false) => {
    drawn.item.setAttribute('aria-expanded', on);
    if (on && !drawn.group) {
      drawn.group = make('ul');
      drawn.group.setAttribute('role', 'group');
      drawn.group.append(...drawn.children.map((view) => draw(view, open)));
      drawn.item.appendChild(drawn.group);
    }
    if (drawn.group) drawn.group.hidden = !on;
  };
  const words = ({view, canBeChecked}) => {
    const {node, at} = view;
    if (view.isList) return 'to choose single blocks';
    if (node.reason) return node.reason;
    if (!canBeChecked) return '';
    if (node.tied) return `the same matrix as ${node.tied}`;
    const many = modules(node, at);
    if (!node.target || many.length < 2) return '';
    const on = many.filter((module) => isOn(node, module)).length;
    if (!on) return `${many.length} alike`;
    return on < many.length ? `in ${on} of ${many.length}` : `in all ${many.length}`;
  };
  const paint = () => {
    shell.querySelector('.caption').textContent = `+ is how many parameters a row adds at rank ${rank}.`;
    for (const drawn of rows) {
      const {view, item, note, adds, canBeChecked} = drawn;
      const text = words(drawn);
      note.textContent = text;
      const more = canBeChecked ? `+${short(cost(view))}` : '';
      adds.textContent = more;
      if (canBeChecked) item.setAttribute('aria-checked', state(view));
      const label = [view.name, view.node.size, text, more && `adds ${more.slice(1)} parameters`];
      item.setAttribute('aria-label', label.filter(Boolean).join(', '));
    }
  };
  const build = () => {
    const list = make('ul');
    list.setAttribute('role', 'tree');
    list.setAttribute('aria-label', 'Target modules');
    rows = [];
    // Open at first: the model, its blocks and what is directly in them.
    const open = ({node, isList, level}) => !isList && (level === 1 || node.kind === 'blocks' ||
      (node.kind === 'group' && node.path.includes('*') && node.children.some((child) => child.target)));
    list.appendChild(draw({node: data, at: [], level: 1, name: data.name}, open));
    list.firstChild.tabIndex = 0;
    shell.replaceChildren(make('p', 'caption'), list);
  };

  // -- keys and clicks ------------------------------------------------------------------------------------------

  const visible = () => [...shell.querySelectorAll('[role=treeitem]')].filter((item) => item.checkVisibility());
  const focus = (item) => {
    if (!item) return;
    for (const other of shell.querySelectorAll('[tabindex="0"]')) other.tabIndex = -1;
    item.tabIndex = 0;
    item.focus();
    item.querySelector('.module-row').scrollIntoView({block: 'nearest'});
  };
  const toggle = (drawn, isRange) => {
    const {view, item, canBeChecked} = drawn;
    if (!canBeChecked) { if (view.isList) twist(drawn); return; }
    const on = item.getAttribute('aria-checked') !== 'true';
    if (isRange && last && view.block !== undefined && last.list === item.parentElement) {
      const items = [...last.list.children], ends = [items.indexOf(last.item), items.indexOf(item)].sort((a, b) => a - b);
      for (const between of items.slice(ends[0], ends[1] + 1)) switchTo(between.drawn.view, last.on);
      change(view, last.on);
      return;
    }
    last = view.block === undefined ? null : {item, list: item.parentElement, on};
    change(view, on);
  };
  const twist = (drawn, on = drawn.item.getAttribute('aria-expanded') !== 'true') => {
    if (!drawn.children.length) return;
    unfold(drawn, on);
    paint();
  };
  shell.addEventListener('click', (event) => {
    const item = event.target.closest('[role=treeitem]');
    if (!item) return;
    focus(item);
    if (event.target.closest('.twist')) twist(item.drawn); else toggle(item.drawn, event.shiftKey);
  });
  shell.addEventListener('mousedown', (event) => { if (event.shiftKey) event.preventDefault(); });
  shell.addEventListener('keydown', (event) => {
    const item = event.target.closest('[role=treeitem]');
    if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = visible(), at = all.indexOf(item), isOpen = item.getAttribute('aria-expanded') === 'true';
    const parent = item.parentElement.closest('[role=treeitem]');
    const act = {
      ArrowDown: () => focus(all[at + 1]),
      ArrowUp: () => focus(all[at - 1]),
      Home: () => focus(all[0]),
      End: () => focus(all.at(-1)),
      ArrowRight: () => (isOpen ? focus(all[at + 1]) : twist(item.drawn, true)),
      ArrowLeft: () => (isOpen ? twist(item.drawn, false) : focus(parent)),
      ' ': () => toggle(item.drawn, event.shiftKey),
      Enter: () => toggle(item.drawn, event.shiftKey),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  // -- what the server says -------------------------------------------------------------------------------------

  const show = () => {
    rank = Number(props.rank) || 1;
    const tree = props.tree || '';
    if (tree !== source) {
      source = tree;
      emitted = null;
      data = tree ? JSON.parse(tree) : null;
      if (data) { prepare(data, []); build(); } else shell.replaceChildren();
    }
    if (!data) return;
    if (props.value !== emitted) { take(props.value); emitted = props.value; }
    paint();
  };
  watch(['value', 'tree', 'rank'], show);
  show();
};
