// Checks of the store by ClickHouse's Node client; prints "N passed, N failed".
import { createClient, ClickHouseError } from "@clickhouse/client";
import { Readable } from "node:stream";
import { randomUUID } from "node:crypto";

let passed = 0;
let failed = 0;

async function check(name, work) {
  try {
    await work();
    passed += 1;
  } catch (cause) {
    failed += 1;
    console.log("FAILED", name, cause);
  }
}

function want(got, expected) {
  if (JSON.stringify(got) !== JSON.stringify(expected)) {
    throw new Error(`got ${JSON.stringify(got)}, not ${JSON.stringify(expected)}`);
  }
}

async function rows(client, query, rest = {}) {
  return await (await client.query({ query, format: "JSONEachRow", ...rest })).json();
}

async function session(compress) {
  const client = createClient({
    url: process.argv[2],
    database: "tidemill",
    compression: { request: compress, response: compress },
    max_open_connections: 4,
  });
  const about = (name) => `compress=${compress} ${name}`;
  const table = `node_${randomUUID().replaceAll("-", "")}`;
  await check(about("ping"), async () => want((await client.ping()).success, true));
  await check(about("create"), () =>
    client.command({
      query: `CREATE TABLE ${table} (i Int64, f Float64, s LowCardinality(String), t DateTime64(3, 'UTC'),
        a Array(UInt8), n Nullable(Int32), m Map(String, UInt8)) ENGINE = MergeTree ORDER BY i`,
    }),
  );
  const row = (i) => ({ i, f: i / 2, s: "word", t: "2020-02-29 12:00:00.005", a: [1, 2], n: null, m: { k: 7 } });
  await check(about("insert of an array"), async () => {
    const values = Array.from({ length: 5_000 }, (_, i) => row(i));
    const answer = await client.insert({ table, values, format: "JSONEachRow" });
    want(answer.summary.written_rows, "5000");
  });
  await check(about("insert of a stream"), async () => {
    const values = Readable.from((function* () { for (let i = 5_000; i < 10_000; i++) yield row(i); })());
    await client.insert({ table, values, format: "JSONEachRow" });
  });
  await check(about("typed reads"), async () => {
    const found = await rows(client, `SELECT * FROM ${table} WHERE i = 9999`, {
      clickhouse_settings: { output_format_json_quote_64bit_integers: 0 },
    });
    want(found, [row(9_999)]);
  });
  await check(about("parameters"), async () => {
    const query_params = { word: "it's\ta\\word", top: 7, list: [1, 2], moment: new Date(0), none: null };
    const found = await rows(
      client,
      `SELECT {word:String} AS w, toUInt32(count()) AS c, {list:Array(UInt8)} AS l,
       toUnixTimestamp({moment:DateTime('UTC')}) AS t, {none:Nullable(String)} AS n FROM ${table} WHERE i < {top:UInt64}`,
      { query_params },
    );
    want(found, [{ w: "it's\ta\\word", c: 7, l: [1, 2], t: 0, n: null }]);
  });
  await check(about("a million rows as a stream"), async () => {
    const result = await client.query({
      query: "SELECT toUInt32(number) AS n FROM numbers(1000000)", format: "JSONCompactEachRow",
    });
    let sum = 0;
    for await (const piece of result.stream()) for (const one of piece) sum += one.json()[0];
    want(sum, 499_999_500_000);
  });
  await check(about("an error has its code"), async () => {
    const error = await client.query({ query: "SELECT nope" }).then(() => null, (cause) => cause);
    want([error instanceof ClickHouseError, error.code, error.type], [true, "47", "UNKNOWN_IDENTIFIER"]);
  });
  await check(about("an error in mid-stream"), async () => {
    const result = await client.query({
      query: "SELECT throwIf(number = 2900000) AS x FROM numbers(3000000)", format: "JSONEachRow",
    });
    const read = async () => { for await (const piece of result.stream()) void piece; };
    want(await read().then(() => "no error", (cause) => /395|throwIf/.test(String(cause.message))), true);
  });
  await check(about("progress in headers"), async () => {
    const found = await rows(client, "SELECT sum(sleepEachRow(0.01)) AS s FROM numbers(100)", {
      clickhouse_settings: { send_progress_in_http_headers: 1, http_headers_progress_interval_ms: "50", max_block_size: "10" },
    });
    want(found, [{ s: 0 }]);
  });
  await check(about("cancel"), () => cancel(client));
  await check(about("a session keeps its table"), () => temporary(compress));
  await check(about("drop"), () => client.command({ query: `DROP TABLE ${table}` }));
  await client.close();
}

/** Aborting a request ends its query in the engine. */
async function cancel(client) {
  const query_id = randomUUID();
  const abort = new AbortController();
  const query = "SELECT sum(sin(number)) FROM numbers(1000000000000)";
  const asked = client.query({ query, query_id, abort_signal: abort.signal }).then(() => "answered", () => "aborted");
  await running(client, query_id, 1);
  abort.abort();
  want(await asked, "aborted");
  await running(client, query_id, 0);
}

async function running(client, query_id, count) {
  const query = "SELECT toUInt32(count()) AS c FROM system.processes WHERE query_id = {id:String}";
  for (const deadline = Date.now() + 30_000; ; ) {
    const [{ c }] = await rows(client, query, { query_params: { id: query_id } });
    if (c === count) return;
    if (Date.now() > deadline) throw new Error(`${c} run, not ${count}`);
    await new Promise((done) => setTimeout(done, 50));
  }
}

async function temporary(compress) {
  const client = createClient({
    url: process.argv[2], database: "tidemill", session_id: randomUUID(), max_open_connections: 1,
    compression: { request: compress, response: compress },
  });
  await client.command({ query: "CREATE TEMPORARY TABLE kept (n UInt8)" });
  await client.insert({ table: "kept", values: [{ n: 5 }], format: "JSONEachRow" });
  want(await rows(client, "SELECT n FROM kept"), [{ n: 5 }]);
  await client.close();
}

for (const compress of [false, true]) await session(compress);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed > 0 ? 1 : 0);
