// npm install eventsource
// SLUICED_KEY=… node listen.mjs http://127.0.0.1:8080 orders.created,orders.paid
import { EventSource } from 'eventsource';

const [daemon = 'http://127.0.0.1:8080', types = 'orders.created'] = process.argv.slice(2);
const url = new URL('/api/v1/events/stream', daemon);
url.searchParams.set('types', types);

// Asked for every connection, so that a new key or token is used from the next one on.
const withKey = (address, init) =>
  fetch(address, { ...init, headers: { ...init.headers, Authorization: `Bearer ${process.env.SLUICED_KEY}` } });

function listen(last) {
  // It comes back by itself after a break, with the last id that it saw.
  const events = new EventSource(url, {
    fetch: (address, init) =>
      withKey(address, last ? { ...init, headers: { 'Last-Event-ID': last, ...init.headers } } : init),
  });
  const show = ({ type, data, lastEventId }) => {
    last = lastEventId;
    console.log(JSON.stringify({ id: lastEventId, type, data }));
  };
  for (const type of types.split(',')) {
    events.addEventListener(type, show);
    events.addEventListener(`${type};base64`, show); // a payload that is no text
  }
  events.addEventListener('gap', show); // history that is gone
  events.onerror = ({ code, message }) => {
    console.error(code ?? '', message ?? 'the stream ended');
    if (events.readyState !== EventSource.CLOSED) return;
    // An answer other than 200 ends it for good. What passes is tried again; a refusal is not.
    if (code === 429 || code >= 500) setTimeout(listen, 5_000 * (0.5 + Math.random() / 2), last);
    else process.exitCode = 1;
  };
}

listen();
// While it waits to come back, nothing else keeps Node running.
setInterval(() => {}, 2 ** 30);
