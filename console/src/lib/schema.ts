// JSON Schema, as far as forms need it. The daemon, which asks the plugin itself, has the last word.

export interface Schema {
  type?: string | string[];
  title?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  properties?: Record<string, Schema>;
  required?: string[];
  additionalProperties?: unknown;
  items?: Schema;
  minimum?: number;
  maximum?: number;
  minLength?: number;
  maxLength?: number;
  pattern?: string;
  $ref?: string;
  $defs?: Record<string, Schema>;
  anyOf?: Schema[];
  oneOf?: Schema[];
}

export function resolved(schema: Schema, root: Schema): Schema {
  const name = schema.$ref?.match(/^#\/\$defs\/(.+)$/)?.[1];
  return name ? { ...root.$defs?.[name], ...schema, $ref: undefined } : schema;
}

/** The one type of a value, without `null`; nothing where there are several. */
export function kind(schema: Schema): string | null {
  const types = [schema.type ?? []].flat().filter((type) => type !== "null");
  return types.length === 1 ? (types[0] ?? null) : null;
}

/** What is wrong with a value, each with its path. */
export function wrong(value: unknown, schema: Schema, root: Schema = schema, at = ""): string[] {
  const own = resolved(schema, root);
  const place = at || "the configuration";
  const types = [own.type ?? []].flat();
  const is = value === null ? "null" : Array.isArray(value) ? "array" : typeof value === "number" && Number.isInteger(value) ? "integer" : typeof value;
  if (types.length && !types.includes(is) && !(is === "integer" && types.includes("number"))) return [`${place} must be ${types.join(" or ")}`];
  if (own.enum && !own.enum.includes(value)) return [`${place} must be one of ${own.enum.join(", ")}`];
  const found: string[] = [];
  if (typeof value === "number") {
    if (own.minimum !== undefined && value < own.minimum) found.push(`${place} must be at least ${own.minimum}`);
    if (own.maximum !== undefined && value > own.maximum) found.push(`${place} must be at most ${own.maximum}`);
  }
  if (typeof value === "string") {
    if (own.minLength !== undefined && value.length < own.minLength) found.push(`${place} must not be ${value === "" ? "empty" : "so short"}`);
    if (own.maxLength !== undefined && value.length > own.maxLength) found.push(`${place} is too long`);
    if (own.pattern !== undefined && !new RegExp(own.pattern, "u").test(value)) found.push(`${place} has not the form ${own.pattern}`);
  }
  if (Array.isArray(value) && own.items) value.forEach((one, n) => found.push(...wrong(one, own.items ?? {}, root, `${at}[${n}]`)));
  if (is === "object") {
    const object = value as Record<string, unknown>;
    const dot = at ? `${at}.` : "";
    for (const name of own.required ?? []) if (!(name in object)) found.push(`${dot}${name} is missing`);
    for (const [name, one] of Object.entries(object)) {
      const property = own.properties?.[name];
      if (property) found.push(...wrong(one, property, root, dot + name));
      else if (own.additionalProperties === false) found.push(`${dot}${name} is not known`);
    }
  }
  return found;
}
