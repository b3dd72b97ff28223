// Everlook from Node: puts a photo into the catalogue, searches by it, and reads what an error says.
//
//   node search.js 127.0.0.1:50051 photo.jpg
//
// All it needs is everlook.proto and the stock gRPC packages. Exit code 1 when a call fails.
'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { promisify } = require('node:util');
const grpc = require('@grpc/grpc-js');
const protoLoader = require('@grpc/proto-loader');
const { errorFacts } = require('./error_facts');

const PROTO_ROOT = path.join(__dirname, '..', '..', 'proto');
const LARGEST_MESSAGE = 64 * 1024 * 1024; // photos come back whole; gRPC's own limit is 4 MiB

const definition = protoLoader.loadSync('everlook/v1/everlook.proto', {
  includeDirs: [PROTO_ROOT],
  keepCase: true, // field names as in the .proto
  longs: Number, // every uint64 of Everlook stays below 2^53
  enums: String,
  defaults: true,
  oneofs: true,
});
const everlook = grpc.loadPackageDefinition(definition).everlook.v1;

/** One service, its methods taking a request and a deadline in seconds, and returning a promise. */
function connect(Service, target) {
  const stub = new Service(target, grpc.credentials.createInsecure(), {
    'grpc.max_receive_message_length': LARGEST_MESSAGE,
  });
  const call = (method, request, seconds = 10) =>
    promisify(stub[method]).call(stub, request, { deadline: Date.now() + 1000 * seconds });
  return { call, close: () => stub.close() };
}

async function main(target, file) {
  const image = fs.readFileSync(file);
  const catalog = connect(everlook.Catalog, target);
  const search = connect(everlook.Search, target);
  try {
    const item = {
      id: `node-example/${path.basename(file)}`,
      category: 'node-example',
      metadata: { source: { string: 'search.js' }, bytes: { number: image.length } },
    };
    const put = await catalog.call('Put', { item, image });
    console.log(`put ${item.id}: ${put.outcome}, change ${put.seq}`);

    const found = await search.call('Search', { image, k: 5, include_metadata: true });
    console.log(`generation ${found.generation.number} found:`);
    for (const hit of found.hits) console.log(`  ${hit.score.toFixed(4)}  ${hit.category}  ${hit.id}`);

    // What an app reads when the server refuses a photo.
    try {
      await search.call('Search', { image: Buffer.from('not a photo'), k: 5 });
    } catch (error) {
      const facts = errorFacts(error);
      console.log(`refused, as it should be: ${facts.code} ${facts.reason}, field ${facts.field}: ${facts.message}`);
    }
  } finally {
    catalog.close();
    search.close();
  }
}

const [target, file] = process.argv.slice(2);
if (!target || !file) {
  console.error('usage: node search.js HOST:PORT PHOTO');
  process.exitCode = 2;
} else {
  main(target, file).catch((error) => {
    const facts = typeof error.code === 'number' ? errorFacts(error) : { message: error.message };
    const hint = facts.retryAfterSeconds === undefined ? '' : ` (try again in ${facts.retryAfterSeconds} s)`;
    console.error(`${facts.code ?? 'error'}: ${facts.message}${hint}`);
    process.exitCode = 1;
  });
}
