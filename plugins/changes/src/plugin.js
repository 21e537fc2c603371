// What changed in a row: a filter and a transform for events of change data capture, with the row before and after.

import { write } from 'sluiced:plugin/log@1.0.0';

const decoder = new TextDecoder();
const encoder = new TextEncoder();

let config;

export const lifecycle = {
  describe: () => ({
    name: 'changes',
    version: '0.1.0',
    summary: 'Keeps events that change certain fields of a row, and says what changed.',
    configSchema: JSON.stringify({
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      type: 'object',
      properties: {
        fields: {
          type: 'array',
          items: { type: 'string', minLength: 1 },
          minItems: 1,
          description: 'The fields of the row that matter; all of them when it is absent.',
        },
        before: { type: 'string', description: 'JSON pointer to the row before; "/before" when absent.' },
        after: { type: 'string', description: 'JSON pointer to the row after; "/after" when absent.' },
      },
      additionalProperties: false,
    }),
    needsPayload: true,
    needsHeaders: { tag: 'none' },
  }),

  configure: telling((text) => {
    const given = JSON.parse(text);
    config = {
      fields: given.fields,
      before: pointer('before', given.before ?? '/before'),
      after: pointer('after', given.after ?? '/after'),
    };
  }),
};

export const filter = {
  keep: telling((event) => {
    const { operation, changed } = compare(event);
    if (operation !== 'update' || Object.keys(changed).length > 0) {
      return { tag: 'keep' };
    }
    return { tag: 'drop', val: config.fields ? `no change of ${config.fields.join(', ')}` : 'no change' };
  }),
};

export const transform = {
  apply: telling((event) => {
    const { operation, changed, row } = compare(event);
    if (operation === 'update' && Object.keys(changed).length === 0) {
      write('debug', `nothing changed in ${event.id}`);
      return [];
    }
    const data = encoder.encode(JSON.stringify({ operation, changed, row }));
    return [{ data, contentType: 'application/json', headers: [], type: undefined }];
  }),
};

/** What became of the row: inserted, updated or deleted, and for each field that matters and changed, from what to what. */
function compare(event) {
  const payload = JSON.parse(decoder.decode(event.data));
  const before = row(payload, config.before);
  const after = row(payload, config.after);
  if (before === null && after === null) {
    throw 'the payload has no row before and no row after';
  }
  const operation = before === null ? 'insert' : after === null ? 'delete' : 'update';
  const [from, to] = [before ?? {}, after ?? {}];
  const fields = config.fields ?? [...new Set([...Object.keys(from), ...Object.keys(to)])].sort();
  const changed = {};
  for (const field of fields) {
    if (!same(from[field], to[field])) {
      changed[field] = { from: from[field] ?? null, to: to[field] ?? null };
    }
  }
  return { operation, changed, row: after ?? before };
}

/** The row at a pointer; null when there is none. */
function row(payload, { text, steps }) {
  let value = payload;
  for (const step of steps) {
    value = value !== null && typeof value === 'object' && Object.hasOwn(value, step) ? value[step] : undefined;
  }
  if (value === undefined || value === null) {
    return null;
  }
  if (typeof value !== 'object' || Array.isArray(value)) {
    throw `what is at ${text} is not a row, an object`;
  }
  return value;
}

/** A JSON pointer, taken apart. */
function pointer(key, text) {
  if (text !== '' && !text.startsWith('/')) {
    throw `\`${key}\` is not a JSON pointer: it begins with "/", as "/payload/${key}"`;
  }
  const steps = text.split('/').slice(1);
  return { text: text || 'the top', steps: steps.map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~')) };
}

/** Are two JSON values the same, whatever the order of keys? What is absent is the same as null. */
function same(one, other) {
  const [a, b] = [one ?? null, other ?? null];
  if (a === null || b === null || typeof a !== 'object' || typeof b !== 'object') {
    return a === b;
  }
  if (Array.isArray(a) !== Array.isArray(b)) {
    return false;
  }
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}

/** Makes whatever is thrown the plugin's error, a text. What is thrown and is no text would be a trap. */
function telling(work) {
  return (argument) => {
    try {
      return work(argument);
    } catch (error) {
      throw typeof error === 'string' ? error : `${error.name}: ${error.message}`;
    }
  };
}
