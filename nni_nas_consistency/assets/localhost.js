// NNI's manager listens on all interfaces and has no password. Loaded before it (node --require), this binds every
// server that names no host to this machine alone; but the one to which trials of other machines report, which listens
// on the port after the web page's, to the address that they are given (nniManagerIp), where there is one.
const { Server } = require("net");
const listen = Server.prototype.listen;
const reports = process.env.NNI_NAS_CONSISTENCY_REPORTS;
const webPage = Number(process.argv[process.argv.indexOf("--port") + 1]);
const addressFor = (port) => (reports && Number(port) === webPage + 1 ? reports : "127.0.0.1");
Server.prototype.listen = function (...args) {
  const [first, ...rest] = args;
  const isPort = typeof first === "number" || (typeof first === "string" && /^\d+$/.test(first));
  if (isPort && typeof rest[0] !== "string") {
    return listen.call(this, first, addressFor(first), ...rest);
  }
  if (first && typeof first === "object" && "port" in first && !first.host) {
    return listen.call(this, { ...first, host: addressFor(first.port) }, ...rest);
  }
  return listen.apply(this, args);
};
