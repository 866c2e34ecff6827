// Prints the median time of a change to one row of a group of rows whose sum is kept, in nanoseconds.
import { D2, MultiSet, groupBy, groupByOperators, output } from '@tanstack/db-ivm'

const [rows, changes] = process.argv.slice(2).map(Number)
const graph = new D2()
const input = graph.newInput()
let total
input.pipe(
  groupBy((order) => ({ group: order.group }), { total: groupByOperators.sum((order) => order.amount) }),
  output((message) => {
    for (const [[, value], n] of message.getInner()) if (n > 0) total = value.total
  }),
)
graph.finalize()

const orders = Array.from({ length: rows }, (_, id) => ({ id, group: 'all', amount: id }))
input.sendData(new MultiSet(orders.map((order) => [order, 1])))
graph.run()

const times = []
for (let i = 0; i < changes; i++) {
  const id = (i * 7919) % rows
  const was = orders[id]
  const is = { ...was, amount: was.amount + 1 }
  orders[id] = is
  const began = process.hrtime.bigint()
  input.sendData(new MultiSet([[was, -1], [is, 1]]))
  graph.run()
  times.push(Number(process.hrtime.bigint() - began))
}

const want = orders.reduce((sum, order) => sum + order.amount, 0)
if (total !== want) throw new Error(`the sum is ${total}, not ${want}`)
console.log(times.sort((a, b) => a - b)[changes >> 1])
