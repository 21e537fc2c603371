// A filter that keeps events whose field has at least a given value, and a transform that marks them.
//
// This is what `sluiced plugin new` makes: an example to change. A plugin needs only one of both roles: take out the
// other, and change `world` in package.json to `filter-plugin` or `transform-plugin`. The contract, with every type, is
// wit/plugin.wit: its names in camelCase, bytes as Uint8Array, 64-bit numbers as BigInt, an option as value or undefined.

import { write } from 'sluiced:plugin/log@1.0.0';

const decoder = new TextDecoder();
const encoder = new TextEncoder();

let config;

export const lifecycle = {
  describe: () => ({
    name: '@name@',
    version: '0.1.0',
    summary: 'Keeps, or marks, events whose field has at least a given value.',
    configSchema: JSON.stringify({
      type: 'object',
      properties: {
        field: { type: 'string', description: 'The field to look at.' },
        min: { type: 'number', description: 'The least value that counts as large.' },
      },
      required: ['field', 'min'],
      additionalProperties: false,
    }),
    needsPayload: true,
    needsHeaders: { tag: 'none' },
  }),

  configure: telling((text) => {
    config = JSON.parse(text);
    if (config.field === '') {
      throw '`field` is empty: name the field to look at, for example "amount"';
    }
  }),
};

export const filter = {
  keep: telling((event) => {
    const value = valueOf(JSON.parse(decoder.decode(event.data)));
    if (value >= config.min) {
      return { tag: 'keep' };
    }
    write('debug', `dropping ${event.id}`);
    return { tag: 'drop', val: `${value} is less than ${config.min}` };
  }),
};

export const transform = {
  apply: telling((event) => {
    const payload = JSON.parse(decoder.decode(event.data));
    payload.large = valueOf(payload) >= config.min;
    return [
      {
        data: encoder.encode(JSON.stringify(payload)),
        contentType: 'application/json',
        headers: [],
        type: undefined,
      },
    ];
  }),
};

function valueOf(payload) {
  const value = payload[config.field];
  if (typeof value !== 'number') {
    throw `\`${config.field}\` is not a number`;
  }
  return value;
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
