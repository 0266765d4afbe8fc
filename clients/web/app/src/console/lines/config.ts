/** What is typed into a provider's form, and the `providerConfig` that it stands for. */

import type { Field } from "@dialdesk/sdk"

/** What stands in each field, as text; booleans as `true`, `false`, or blank for the provider's own choice. */
export type Typed = Record<string, string>

/** The fields of a form that count: those of all platforms, and of the one that is chosen. */
export function shownFields(fields: Field[], typed: Typed): Field[] {
  return fields.filter((field) => field.platform === null || field.platform === typed.platform)
}

/** What to type for a configuration that is kept. Secrets are not typed again, but for objects of them, masked inside. */
export function typedOf(fields: Field[], config: Record<string, unknown>): Typed {
  return Object.fromEntries(
    fields.map((field) => {
      const value = config[field.name]
      if (value === undefined || value === null || (field.secret && field.kind !== "object")) return [field.name, ""]
      if (field.kind === "object") return [field.name, JSON.stringify(value, null, 2)]
      return [field.name, Array.isArray(value) ? value.join("\n") : String(value)]
    }),
  )
}

export interface Problem {
  field: string
  is: "missing" | "notJson" | "notNumber"
}

/** The configuration that is typed, and what is wrong with it. Blank fields are left out; `kept` secrets may be. */
export function configOf(
  fields: Field[],
  typed: Typed,
  kept: ReadonlySet<string>,
): { config: Record<string, unknown>; problems: Problem[] } {
  const config: Record<string, unknown> = {}
  const problems: Problem[] = []
  for (const field of shownFields(fields, typed)) {
    const text = (typed[field.name] ?? "").trim()
    if (text === "") {
      if (field.required && !kept.has(field.name)) problems.push({ field: field.name, is: "missing" })
      continue
    }
    const value = read(field, text)
    if (typeof value === "string" && value === "" && field.kind !== "string")
      problems.push({ field: field.name, is: field.kind === "integer" ? "notNumber" : "notJson" })
    else config[field.name] = value
  }
  return { config, problems }
}

/** The value that a text stands for; blank where it stands for none. */
function read(field: Field, text: string): unknown {
  switch (field.kind) {
    case "boolean":
      return text === "true"
    case "integer":
      return /^-?\d+$/.test(text) ? Number(text) : ""
    case "array":
      return lines(text)
    case "object":
      return json(text) ?? ""
    default:
      return text
  }
}

/** The lines of a text that are not blank. */
export function lines(text: string): string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter(Boolean)
}

function json(text: string): object | null {
  try {
    const value: unknown = JSON.parse(text)
    return typeof value === "object" ? value : null
  } catch {
    return null
  }
}
