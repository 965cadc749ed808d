/** The few words in which the page writes its elements. Text comes in by textContent alone: nothing that is told is ever markup. */

/**
 * An element with attributes and children. A child that is a string becomes text.
 * @template {keyof HTMLElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number | boolean | undefined>} [attributes] `true` sets an empty one, `false` and undefined none
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[K]}
 */
export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  setAll(element, attributes);
  element.append(...children);
  return element;
}

/**
 * The same in SVG.
 * @template {keyof SVGElementTagNameMap} K
 * @param {K} tag
 * @param {Record<string, string | number>} [attributes]
 * @param {...(Node | string)} children
 * @returns {SVGElementTagNameMap[K]}
 */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS('http://www.w3.org/2000/svg', tag);
  setAll(element, attributes);
  element.append(...children);
  return element;
}

/**
 * @param {Element} element
 * @param {Record<string, string | number | boolean | undefined>} attributes
 */
function setAll(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
}

/**
 * Sets an attribute, but only to something new: what has not changed costs no layout.
 * @param {Element} element
 * @param {string} name
 * @param {string | number | boolean | undefined} value
 */
export function set(element, name, value) {
  const text = value === true ? '' : value === false || value === undefined ? null : String(value);
  if (element.getAttribute(name) === text) return;
  if (text === null) element.removeAttribute(name);
  else element.setAttribute(name, text);
}

/**
 * @param {Element} element
 * @param {string} text
 */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Makes `children` the children of `parent`, in this order, moving as few as it can: one that stays where it is keeps focus and hover.
 * @param {Element} parent
 * @param {readonly Element[]} children
 */
export function arrange(parent, children) {
  const wanted = new Set(children);
  for (const old of [...parent.childNodes]) if (!(old instanceof Element && wanted.has(old))) old.remove();
  let at = parent.firstElementChild;
  for (const child of children) {
    if (child === at) at = at.nextElementSibling;
    else parent.insertBefore(child, at);
  }
}

/**
 * The element of index.html with this id.
 * @template {HTMLElement} T
 * @param {string} id
 * @param {new () => T} type
 * @returns {T}
 */
export function byId(id, type) {
  const element = document.getElementById(id);
  if (!(element instanceof type)) throw new Error(`index.html has no ${type.name} with the id ${id}`);
  return element;
}

/**
 * @param {string} caption for those who do not see the heading above
 * @param {readonly string[]} columns one that ends with `#` holds numbers
 */
export function table(caption, columns) {
  const body = el('tbody');
  const head = columns.map((name) => el('th', { scope: 'col', class: name.endsWith('#') && 'number' }, name.replace('#', '')));
  // Focusable, because a table wider than the screen is scrolled by the keyboard too.
  const frame = el(
    'div',
    { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': caption },
    el('table', {}, el('caption', { class: 'unseen' }, caption), el('thead', {}, el('tr', {}, ...head)), body),
  );
  return { frame, body, columns };
}

/**
 * A cell: its text, or text that means trouble.
 * @typedef {string | { text: string, tone: 'bad' | 'quiet' }} Cell
 */

/**
 * Fills a table, touching only cells that changed, so that a selection in the others stays. The first cell of each row is its heading.
 * @param {{ body: HTMLTableSectionElement, columns: readonly string[] }} table
 * @param {readonly (readonly Cell[])[]} rows
 */
export function fill({ body, columns }, rows) {
  while (body.rows.length > rows.length) body.deleteRow(-1);
  for (const [at, cells] of rows.entries()) {
    const row = body.rows[at] ?? body.insertRow();
    for (const [column, cell] of cells.entries()) {
      const there = row.cells[column] ?? row.appendChild(column === 0 ? el('th', { scope: 'row' }) : el('td'));
      write(there, typeof cell === 'string' ? cell : cell.text);
      const tone = typeof cell === 'string' ? '' : cell.tone;
      set(there, 'class', [columns[column]?.endsWith('#') ? 'number' : '', tone].filter(Boolean).join(' ') || undefined);
    }
  }
}
