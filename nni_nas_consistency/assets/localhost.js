// NNI's manager listens on all interfaces and has no password. Loaded before it (node --require), this binds every
// server that names no host to this machine alone.
const { Server } = require("net");
const listen = Server.prototype.listen;
Server.prototype.listen = function (...args) {
  const [first, ...rest] = args;
  const isPort = typeof first === "number" || (typeof first === "string" && /^\d+$/.test(first));
  if (isPort && typeof rest[0] !== "string") {
    return listen.call(this, first, "127.0.0.1", ...rest);
  }
  if (first && typeof first === "object" && "port" in first && !first.host) {
    return listen.call(this, { ...first, host: "127.0.0.1" }, ...rest);
  }
  return listen.apply(this, args);
};
