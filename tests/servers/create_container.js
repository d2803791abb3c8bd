// Creates a container in Azurite: `node create_container.js PORT NAME`. Object stores' clients do not create containers.
const crypto = require("node:crypto");
const http = require("node:http");

const [port, name] = process.argv.slice(2);
const account = "devstoreaccount1";
// The key that Microsoft publishes for the emulator.
const key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==";
const date = new Date().toUTCString();
const version = "2021-08-06";
const text =
  "PUT\n\n\n\n\n\n\n\n\n\n\n\n" +
  `x-ms-date:${date}\nx-ms-version:${version}\n/${account}/${account}/${name}\nrestype:container`;
const signature = crypto.createHmac("sha256", Buffer.from(key, "base64")).update(text, "utf8").digest("base64");
const headers = {
  "x-ms-date": date,
  "x-ms-version": version,
  "Content-Length": 0,
  Authorization: `SharedKey ${account}:${signature}`,
};
const request = { host: "127.0.0.1", port, path: `/${account}/${name}?restype=container`, method: "PUT", headers };
http
  .request(request, (answer) => process.exit(answer.statusCode === 201 || answer.statusCode === 409 ? 0 : 1))
  .on("error", () => process.exit(2))
  .end();
