// Uploads a file: `node client.mjs URL FILE CHUNK_SIZE`. Prints a line when it can begin,
// begins when it reads a line, and prints the upload's URL at its end.

import { createReadStream } from "node:fs";
import { once } from "node:events";
import { Upload } from "tus-js-client";

const [endpoint, path, chunkSize] = process.argv.slice(2);
console.log("ready");
await once(process.stdin, "data");
const upload = new Upload(createReadStream(path), {
  endpoint,
  chunkSize: Number(chunkSize),
  retryDelays: null,
  onError(error) {
    console.error(error);
    process.exit(1);
  },
  onSuccess() {
    console.log(upload.url);
  },
});
upload.start();
await once(process.stdin, "end");
process.exit(0);
