// Updates the admin page in place. The server renders, searches and sorts; this script fetches the page again and
// replaces what has changed, so that expanded rows, focus, selection and scroll positions stay.
'use strict';
(() => {
  const INTERVAL = 2000;
  // The server fills the details of this many load balancers at a time.
  const MAX_OPEN = 50;
  const MAX_PAUSE = 30000;
  const TIMEOUT = 10000;

  const form = document.getElementById('filter');
  const live = document.getElementById('live');
  const connection = document.getElementById('connection');
  const help = document.getElementById('help');
  const { q: search, sort } = form.elements;

  document.documentElement.classList.add('script');

  // Details are rendered for load balancers that are expanded and near the visible part of the page.
  const near = new Set();
  const observer = new IntersectionObserver(entries => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) near.add(target); else near.delete(target);
    }
    if ([...near].some(isUnfilled)) update();
  }, { rootMargin: '300px' });
  const isUnfilled = details => details.open && 'lazy' in details.lastElementChild.dataset;

  function observe() {
    for (const details of near) if (!details.isConnected) near.delete(details);
    for (const details of live.querySelectorAll('details')) observer.observe(details);
  }

  function filter() {
    const parameters = new URLSearchParams();
    if (search.value) parameters.set('q', search.value);
    if (sort.selectedIndex > 0) parameters.set('sort', sort.value);
    return parameters;
  }

  function address() {
    const parameters = filter();
    const open = [...near].filter(details => details.open).slice(-MAX_OPEN);
    for (const details of open) parameters.append('open', details.id);
    return `/?${parameters}`;
  }

  let timer, isUpdating = false, isDue = false, updated = new Date();

  async function update() {
    clearTimeout(timer);
    if (document.hidden) return;
    isDue = isUpdating;
    if (isUpdating) return;
    isUpdating = true;
    const started = performance.now();
    try {
      const response = await fetch(address(), { signal: AbortSignal.timeout(TIMEOUT) });
      if (!response.ok) throw new Error(`the answer is ${response.status}`);
      show(new DOMParser().parseFromString(await response.text(), 'text/html'));
      updated = new Date();
      connection.hidden = true;
    } catch (error) {
      connection.textContent = `No update since ${updated.toLocaleTimeString()}: ${error.message}`;
      connection.hidden = false;
    }
    isUpdating = false;
    // A slow page or connection is asked less often.
    const pause = Math.min(Math.max(INTERVAL, 5 * (performance.now() - started)), MAX_PAUSE);
    timer = setTimeout(update, isDue ? 0 : pause);
  }

  function show(page) {
    const focused = document.activeElement;
    document.title = page.title;
    merge(live, page.getElementById('live'));
    // An element that is moved loses the focus.
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
    observe();
  }

  // Changes `old` into `fresh`, and keeps nodes that stay.
  function merge(old, fresh) {
    if (old.isEqualNode(fresh)) return;
    if (old.nodeName !== fresh.nodeName) return void old.replaceWith(fresh);
    if (old.nodeType !== Node.ELEMENT_NODE) return void (old.nodeValue = fresh.nodeValue);
    const keepsContent = 'lazy' in fresh.dataset && !('lazy' in old.dataset);
    if (keepsContent) return;
    mergeAttributes(old, fresh);
    mergeChildren(old, fresh);
  }

  function mergeAttributes(old, fresh) {
    // The user expands and collapses.
    const isOfPage = name => !(name === 'open' && old.nodeName === 'DETAILS');
    for (const { name } of [...old.attributes]) {
      if (isOfPage(name) && !fresh.hasAttribute(name)) old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (isOfPage(name) && old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  }

  // Children with an id are matched by it, the others by their position.
  function mergeChildren(old, fresh) {
    const next = [...fresh.childNodes];
    const ids = new Set(next.map(child => child.id).filter(Boolean));
    const keyed = new Map();
    for (const child of [...old.children]) {
      if (!child.id) continue;
      if (ids.has(child.id)) keyed.set(child.id, child); else child.remove();
    }
    let place = old.firstChild;
    for (const child of next) {
      const same = child.id ? keyed.get(child.id) : place && !place.id ? place : undefined;
      if (!same) {
        old.insertBefore(child, place);
        continue;
      }
      if (same === place) place = place.nextSibling; else old.insertBefore(same, place);
      merge(same, child);
    }
    while (place) {
      const following = place.nextSibling;
      place.remove();
      place = following;
    }
  }

  function filterChanged() {
    history.replaceState(null, '', `/?${filter()}`);
    update();
  }

  form.addEventListener('submit', event => {
    event.preventDefault();
    filterChanged();
  });
  search.addEventListener('input', filterChanged);
  sort.addEventListener('change', filterChanged);
  live.addEventListener('click', event => {
    const link = event.target.closest('a[data-sort]');
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    sort.value = link.dataset.sort;
    filterChanged();
  });
  // A toggle does not bubble.
  live.addEventListener('toggle', ({ target }) => {
    if (near.has(target) && isUnfilled(target)) update();
  }, true);
  document.addEventListener('visibilitychange', update);
  document.getElementById('show-help').addEventListener('click', () => help.showModal());

  function focusLoadBalancer(step) {
    const all = [...live.querySelectorAll('summary')];
    const current = all.indexOf(document.activeElement);
    const first = step > 0 ? 0 : all.length - 1;
    const next = current < 0 ? first : Math.min(Math.max(current + step, 0), all.length - 1);
    all[next]?.focus();
  }

  function toggleAll(open) {
    for (const details of live.querySelectorAll('details')) details.open = open;
  }

  const KEYS = {
    '/': () => search.select(),
    '?': () => help.showModal(),
    j: () => focusLoadBalancer(1),
    k: () => focusLoadBalancer(-1),
    ArrowDown: () => focusLoadBalancer(1),
    ArrowUp: () => focusLoadBalancer(-1),
    e: () => toggleAll(true),
    c: () => toggleAll(false),
  };

  document.addEventListener('keydown', event => {
    const { target, key } = event;
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (target.matches('input, select')) {
      if (key === 'Escape') target.blur();
      return;
    }
    // Elsewhere, arrows scroll the page.
    const isForPage = key.startsWith('Arrow') && target.nodeName !== 'SUMMARY';
    if (isForPage || !Object.hasOwn(KEYS, key)) return;
    event.preventDefault();
    KEYS[key]();
  });

  observe();
  timer = setTimeout(update, INTERVAL);
})();
