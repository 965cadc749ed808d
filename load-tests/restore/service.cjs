// A service of about 100 MB whose memory no two services have in common: mostly random bytes.
const memory = require('node:crypto').randomBytes(64 * 2 ** 20);
require('node:http')
  .createServer((_request, response) => response.end(String(memory.readUInt8(Math.floor(Math.random() * memory.length)))))
  .listen(8080);
