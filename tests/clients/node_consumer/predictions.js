// Reads predictions as a service would: in a group, committed records only. Ends after N of them.
//
//     node predictions.js 127.0.0.1:9092 flights.predictions 10
import { Kafka, logLevel } from "kafkajs";

const [broker, topic, wanted] = process.argv.slice(2);
const kafka = new Kafka({ brokers: [broker], logLevel: logLevel.ERROR });
const consumer = kafka.consumer({ groupId: `node-${topic}`, maxWaitTimeInMs: 100 }); // readUncommitted: false
let seen = 0;

await consumer.connect();
await consumer.subscribe({ topic, fromBeginning: true });
await consumer.run({
  eachMessage: async ({ message }) => {
    if (seen === Number(wanted)) return;
    const { event_id, score } = JSON.parse(message.value);
    console.log(JSON.stringify([message.key.toString(), event_id, score]));
    seen += 1;
    if (seen === Number(wanted)) setImmediate(() => consumer.disconnect().then(() => process.exit(0)));
  },
});
