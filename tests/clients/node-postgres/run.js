// node-postgres: simple, parameterised and named queries, cursors and streams,
// COPY, notifications, cancel by another connection, a pool.
'use strict'

const { readFileSync } = require('node:fs')
const { connect: connectSocket } = require('node:net')
const { join } = require('node:path')
const { Readable, Writable } = require('node:stream')
const { pipeline } = require('node:stream/promises')
const pg = require('pg')
const Cursor = require('pg-cursor')
const QueryStream = require('pg-query-stream')
const copy = require('pg-copy-streams')

const STATEMENTS = JSON.parse(readFileSync(join(__dirname, '..', 'statements.json'), 'utf8'))
const JOIN = 'SELECT u.username, o.product_name FROM users u JOIN remote_orders o USING (user_id) ORDER BY o.order_id'
const ORDERS = 'SELECT count(*), sum(total_amount) FROM remote_orders'
const FIELDS = ['severity', 'code', 'message', 'detail', 'hint', 'position', 'internalPosition', 'internalQuery', 'where',
  'schema', 'table', 'column', 'dataType', 'constraint']

const opened = []

async function connect (options = {}, where = {}) {
  const client = new pg.Client({ ...where, ...options })
  client.on('error', () => {})
  await client.connect()
  opened.push(client)
  return client
}

function source () {
  return connect({}, { host: process.env.SOURCE_HOST, port: Number(process.env.SOURCE_PORT), database: 'clients_source' })
}

function fields (error) {
  if (!(error instanceof pg.DatabaseError)) throw error
  return Object.fromEntries(FIELDS.filter((name) => error[name] !== undefined).map((name) => [name, error[name]]))
}

async function attempt (promise) {
  try {
    return await promise
  } catch (error) {
    return { error: fields(error) }
  }
}

function answer (result) {
  if (Array.isArray(result)) return result.map(answer)
  return {
    command: result.command,
    count: result.rowCount,
    columns: result.fields.map((f) => [f.name, f.dataTypeID, f.dataTypeModifier, f.dataTypeSize, f.tableID, f.columnID, f.format]),
    rows: result.rows
  }
}

async function one (client, query, values) {
  return attempt(client.query(values ? { text: query, values } : query).then(answer))
}

async function test (name, run) {
  let outcome
  try {
    outcome = { value: (await run()) ?? null }
  } catch (error) {
    outcome = { broken: String(error.stack) }
  }
  console.log(JSON.stringify({ test: name, ...outcome }, (_, value) => typeof value === 'bigint' ? String(value) : value))
}

async function play (client, statement, how) {
  const text = statement.sql
  const values = statement.params
  const request = {
    simple: text,
    parameters: { text, values: values ?? [], queryMode: 'extended' },
    named: { name: statement.name.slice(0, 60), text, values },
    binary: { text, values: values ?? [], binary: true, queryMode: 'extended' },
    array: { text, values, rowMode: 'array' }
  }[how.split(' ')[0]]
  const seen = await attempt(client.query(request).then(answer))
  if (seen.error?.code !== statement.error) throw new Error(`SQLSTATE ${seen.error?.code}, wanted ${statement.error}`)
  return seen
}

async function copyOut (client, query) {
  const parts = []
  const stream = client.query(copy.to(query))
  await pipeline(stream, new Writable({ write (chunk, _, done) { parts.push(chunk); done() } }))
  return [Buffer.concat(parts).toString('hex'), stream.rowCount]
}

async function copyIn (client, query, text) {
  const stream = client.query(copy.from(query))
  await pipeline(Readable.from(text), stream)
  return stream.rowCount
}

const TESTS = {
  async 'pipelined queries' () {
    const client = await connect()
    return Promise.all([JOIN, ORDERS, 'SELECT 1/0', 'SELECT 1 / (order_id - 3) FROM remote_orders', JOIN, 'SELECT 2']
      .map((query, n) => one(client, query, n % 2 ? [] : undefined)))
  },
  async transactions () {
    const client = await connect()
    const seen = []
    for (const level of ['READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE', 'READ COMMITTED READ ONLY']) {
      for (const query of [`BEGIN ISOLATION LEVEL ${level}`, JOIN, "INSERT INTO notes (body) VALUES ('t') RETURNING body", 'SAVEPOINT a',
        'SELECT 1 / (order_id - 3) FROM remote_orders', JOIN, 'ROLLBACK TO a', JOIN, ORDERS, 'ROLLBACK', JOIN]) {
        seen.push(await one(client, query), await one(client, query, []))
      }
    }
    return seen
  },
  async 'named statements and DDL' () {
    const [client, other, far] = [await connect(), await connect(), await source()]
    await far.query('ALTER TABLE shrinking ADD extra int DEFAULT 5')
    const seen = []
    const round = async () => {
      for (const [name, text] of [['a', 'SELECT * FROM remote_shrinking'], ['b', 'SELECT name FROM remote_shrinking'],
        ['c', 'SELECT s.*, u.username FROM remote_shrinking s JOIN users u ON u.user_id = s.id']]) {
        seen.push(await attempt(client.query({ name, text }).then(answer)))
      }
    }
    await round()
    for (const ddl of ['ALTER FOREIGN TABLE remote_shrinking ADD extra int', 'ALTER FOREIGN TABLE remote_shrinking DROP extra',
      'ALTER FOREIGN TABLE remote_shrinking RENAME name TO title', 'ALTER FOREIGN TABLE remote_shrinking RENAME title TO name',
      "ALTER FOREIGN TABLE remote_shrinking OPTIONS (SET table_name 'absent')", "ALTER FOREIGN TABLE remote_shrinking OPTIONS (SET table_name 'shrinking')",
      'DROP FOREIGN TABLE remote_shrinking']) {
      await other.query(ddl)
      await round()
    }
    return seen
  },
  async cursors () {
    const client = await connect()
    const seen = []
    for (const query of [JOIN, 'SELECT order_id FROM remote_orders ORDER BY 1', 'SELECT user_id FROM users ORDER BY 1']) {
      const cursor = client.query(new Cursor(query, [], { rowMode: 'array' }))
      seen.push(await cursor.read(2), await cursor.read(2), await cursor.read(100), await cursor.read(1))
      await cursor.close()
      const early = client.query(new Cursor(query))
      seen.push(await early.read(1))
      await early.close()
      seen.push(await one(client, JOIN))
    }
    return seen
  },
  async streams () {
    const client = await connect()
    const seen = []
    for (const query of [JOIN, 'SELECT m.id, m.name FROM remote_many m LEFT JOIN users u ON u.user_id = m.id ORDER BY m.id LIMIT 300']) {
      const rows = []
      for await (const row of client.query(new QueryStream(query, [], { batchSize: 7 }))) rows.push(row)
      seen.push(rows)
    }
    const failing = client.query(new QueryStream('SELECT 1 / (order_id - 4) FROM remote_orders ORDER BY order_id'))
    seen.push(await attempt((async () => { for await (const row of failing) seen.push(row) })()))
    return [...seen, await one(client, JOIN)]
  },
  async copy () {
    const client = await connect()
    const seen = []
    for (const options of ['', ' (FORMAT csv, HEADER)', ' (FORMAT binary)']) {
      for (const query of [JOIN, ORDERS, 'SELECT * FROM users ORDER BY 1', 'SELECT missing FROM remote_orders']) {
        seen.push(await attempt(copyOut(client, `COPY (${query}) TO STDOUT${options}`)))
      }
    }
    for (const table of ['notes', 'remote_notes']) {
      seen.push(await attempt(copyIn(client, `COPY ${table} (id, body) FROM STDIN`, ['9000\tone\n9001\t', 'two\n'])))
      seen.push(await attempt(copyIn(client, `COPY ${table} (id, body) FROM STDIN`, ['9002\tthree\nx\ty\n'])))
      seen.push(await one(client, `SELECT id, body FROM ${table} WHERE id >= 9000 ORDER BY id`), await one(client, `DELETE FROM ${table} WHERE id >= 9000`))
    }
    return seen
  },
  async 'notifications and notices' () {
    const [client, other] = [await connect(), await connect()]
    const heard = []
    const notices = []
    client.on('notification', (message) => heard.push([message.channel, message.payload]))
    client.on('notice', (notice) => notices.push([notice.severity, notice.message, notice.detail, notice.hint]))
    await client.query('LISTEN news')
    await other.query("NOTIFY news, 'one'")
    await client.query("NOTIFY news, 'own'")
    await client.query('SELECT complain(product_name, 0) FROM remote_orders ORDER BY order_id')
    await client.query("SELECT complain('beware', 1)")
    return [heard, notices, await one(client, JOIN)]
  },
  async cancel () {
    const [client, far] = [await connect(), await source()]
    await far.query('BEGIN; LOCK TABLE many')
    const seen = []
    for (const query of ['SELECT pg_sleep(30)', 'SELECT count(*) FROM remote_many',
      'SELECT m.name, u.username FROM remote_many m JOIN users u ON u.user_id = m.id']) {
      const running = one(client, query)
      await new Promise((resolve) => setTimeout(resolve, 400))
      const request = Buffer.alloc(16)
      for (const [n, word] of [16, 80877102, client.processID, client.secretKey].entries()) request.writeInt32BE(word, 4 * n)
      connectSocket(Number(process.env.PGPORT), process.env.PGHOST).on('error', () => {}).end(request)
      const ended = await running
      if (ended.error?.code !== '57014') throw new Error(`not cancelled: ${JSON.stringify(ended)}`)
      seen.push(ended, await one(client, 'SELECT 1'), await one(client, JOIN))
    }
    await far.query('ROLLBACK')
    return seen
  },
  async pool () {
    const pool = new pg.Pool({ max: 3 })
    const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => pool.query(n % 2 ? JOIN : ORDERS).then(answer)))
    await pool.end()
    return answers
  },
  async settings () {
    const client = await connect({ options: '-c timezone=Asia/Tokyo', application_name: 'node', statement_timeout: 3000 })
    return [await one(client, 'SELECT tz::text, current_setting(\'application_name\') FROM remote_kinds WHERE id = 1'),
      await one(client, 'SHOW statement_timeout'), await one(client, 'SHOW timezone')]
  },
  async types () {
    const client = await connect()
    const seen = []
    for (const [name, value] of Object.entries({
      i2: 1, i8: '9007199254740993', f8: 0.1, n: '1.10', b: true, t: 'plain', v: 'vary', c: 'ab', by: Buffer.from('00ff10', 'hex'), d: '2024-02-29',
      ts: '2024-02-29 23:59:59.123456', tz: new Date(Date.UTC(2024, 1, 29, 23, 59, 59)), u: '00000000-0000-0000-0000-000000000001',
      jb: { b: 2 }, ia: [1, null, 3], ta: ['a', 'b c', null], ip: '10.0.0.1/24', m: 'ok'
    })) {
      seen.push(name, await one(client, `SELECT id, ${name} FROM remote_kinds WHERE ${name} = $1`, [value]))
      seen.push(await one(client, `SELECT id, ${name}, username FROM remote_kinds JOIN users ON user_id = id WHERE ${name} = $1`, [value]))
    }
    return seen
  }
}

async function main () {
  const lasting = await connect()
  for (const how of ['simple', 'parameters', 'named', 'named again', 'binary', 'array']) {
    for (const statement of STATEMENTS) {
      if (how === 'simple' && statement.params) continue
      // The driver's own reading of binary numerics takes seconds for each.
      if (how === 'binary' && statement.sql.includes('remote_kinds')) continue
      await test(`${how}: ${statement.name}`, () => play(lasting, statement, how))
    }
  }
  for (const [name, run] of Object.entries(TESTS)) await test(name, run)
  await Promise.all(opened.map((client) => client.end()))
}

main()
