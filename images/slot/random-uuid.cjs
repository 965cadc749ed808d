'use strict';
// Preloaded into Node (NODE_OPTIONS=--require=/rekindle/random-uuid.cjs). crypto.randomUUID() draws the bytes of 128 UUIDs at once and
// hands them out one by one, so that clones of a process would all give the same next ones. Node has an option against it:
// `disableEntropyCache`. Here it becomes the default, for `crypto`, the global `crypto` (Web Crypto) and ES modules. Everything else a
// caller sees stays: name, length, errors, what it returns. Worker threads inherit NODE_OPTIONS and run this again in their own realm.
// Names without `node:`, which Node < 14.18 does not know in require(). Must never disturb the application: what is not there (Node < 14.17, no OpenSSL) or cannot be replaced is left as it is.
try {
  // biome-ignore lint/style/useNodejsImportProtocol: see above
  const crypto = require('crypto');
  const cached = crypto.randomUUID;
  if (typeof cached === 'function') {
    const fresh = {
      randomUUID(options) {
        if (options === undefined) return cached({ disableEntropyCache: true });
        // Whoever asked for no cache gets that; a wrong option or no object at all gets Node's own error.
        const set = options !== null && typeof options === 'object' && !Array.isArray(options) ? options.disableEntropyCache : true;
        return cached(set === undefined || set === false ? { disableEntropyCache: true } : options);
      },
    }.randomUUID;
    Object.defineProperty(fresh, 'length', { value: cached.length, configurable: true });
    crypto.randomUUID = fresh;
    // Named imports (`import { randomUUID } from 'node:crypto'`) are copies, renewed by this.
    // biome-ignore lint/style/useNodejsImportProtocol: see above
    const { syncBuiltinESMExports } = require('module');
    if (typeof syncBuiltinESMExports === 'function') syncBuiltinESMExports();
  }

  // Web Crypto's method takes no options and checks its receiver: an object of another kind still gets Node's own error.
  const { webcrypto } = crypto;
  const prototype = webcrypto ? Object.getPrototypeOf(webcrypto) : undefined;
  const descriptor = prototype ? Object.getOwnPropertyDescriptor(prototype, 'randomUUID') : undefined;
  if (descriptor && typeof descriptor.value === 'function' && typeof cached === 'function') {
    const original = descriptor.value;
    const { randomUUID } = {
      randomUUID() {
        return this === webcrypto ? cached({ disableEntropyCache: true }) : original.call(this);
      },
    };
    Object.defineProperty(prototype, 'randomUUID', { ...descriptor, value: randomUUID });
  }
} catch {
  // The application must start whatever happens here.
}
