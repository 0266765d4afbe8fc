/** One field of an entry: what it was, and what it became. */
export interface Change {
  /** Its path, such as `providerConfig.appId`. */
  field: string
  before: unknown
  after: unknown
}

type Fields = Record<string, unknown>

/** The fields of an entry, each once, those within others by their path. */
export function changes(before: Fields | null, after: Fields | null): Change[] {
  const [was, is] = [flat(before ?? {}), flat(after ?? {})]
  return [...new Set([...was.keys(), ...is.keys()])].map((field) => ({
    field,
    before: was.get(field),
    after: is.get(field),
  }))
}

function flat(fields: Fields, path = ""): Map<string, unknown> {
  const found = new Map<string, unknown>()
  for (const [name, value] of Object.entries(fields)) {
    const inner =
      value !== null && typeof value === "object" && !Array.isArray(value)
        ? flat(value as Fields, `${path}${name}.`)
        : null
    if (inner?.size) for (const [field, one] of inner) found.set(field, one)
    else found.set(path + name, value)
  }
  return found
}
