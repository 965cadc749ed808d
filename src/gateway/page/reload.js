/**
 * Loads the page again when a part of it did not arrive. Chromium lets requests fail (ERR_NETWORK_CHANGED) while a network interface of the
 * machine comes or goes, which is what happens whenever a container is made. A script of its own, and no module: it has to run when they do not.
 */
{
  const KEY = 'rekindle-reloads';
  const MOST = 8;
  let failed = false;

  addEventListener(
    'error',
    ({ target }) => {
      if (failed || !(target instanceof HTMLScriptElement || target instanceof HTMLLinkElement)) return;
      failed = true;
      const before = Number(sessionStorage.getItem(KEY) ?? 0);
      sessionStorage.setItem(KEY, String(before + 1));
      // Not for ever: what is missing may be missing from the gateway.
      if (before < MOST) setTimeout(() => location.reload(), 200 * (before + 1));
      else document.body.prepend('A part of this page cannot be loaded from the gateway. Reload it to try again.');
    },
    // Such errors do not bubble.
    true,
  );
  addEventListener('load', () => {
    if (!failed) sessionStorage.removeItem(KEY);
  });
}
