import { Refused } from "@dialdesk/sdk"
import { computed, type InjectionKey, inject, type Ref, ref, shallowReactive, shallowRef } from "vue"
import { said } from "../shared/failure"

/** A form that is sent: what the server finds wrong with a field stands beside it, all else at its foot. */
export interface Form {
  busy: Ref<boolean>
  /** What went wrong and belongs to no field that is shown. */
  failure: Ref<string>
  /** What is wrong with a field, by its path in the request, such as `providerConfig.appId`. */
  wrong: (path: string) => string
  /** Say that a field is wrong, before anything is sent. */
  blame: (path: string, why: string) => void
  clear: () => void
  /** Do what sends it. False where it was refused, which the form then says. */
  send: (work: () => Promise<unknown>) => Promise<boolean>
  /** For `Field.vue`: a field of this path is shown, until the function that is returned is called. */
  show: (path: string) => () => void
}

export const FORM: InjectionKey<Form> = Symbol("form")

/** The form around; provide one with `provide(FORM, useForm())`. */
export function useFormAround(): Form | null {
  return inject(FORM, null)
}

interface Blame {
  path: string
  why: string
}

export function useForm(): Form {
  const busy = ref(false)
  const blamed = shallowRef<Blame[]>([])
  const other = ref("")
  const fields = shallowReactive(new Set<string>())

  /** The field that is shown and holds what is blamed: itself, or the innermost around it. */
  function home(path: string): string | undefined {
    return [...fields]
      .filter((name) => path === name || path.startsWith(`${name}.`) || path.startsWith(`${name}[`))
      .sort((one, two) => two.length - one.length)[0]
  }

  const failure = computed(
    () =>
      other.value ||
      blamed.value
        .filter(({ path }) => home(path) === undefined)
        .map(({ why }) => why)
        .join(" "),
  )

  function blame(path: string, why: string): void {
    blamed.value = [...blamed.value, { path, why }]
  }

  function clear(): void {
    blamed.value = []
    other.value = ""
  }

  async function send(work: () => Promise<unknown>): Promise<boolean> {
    clear()
    busy.value = true
    try {
      await work()
      return true
    } catch (error) {
      const path = error instanceof Refused ? blamedBy(error) : null
      if (path === null) other.value = said(error)
      else blame(path, withoutPath(said(error)))
      return false
    } finally {
      busy.value = false
    }
  }

  function show(path: string): () => void {
    fields.add(path)
    return () => fields.delete(path)
  }

  const wrong = (path: string) =>
    blamed.value
      .filter((one) => home(one.path) === path)
      .map(({ why }) => why)
      .join(" ")

  return { busy, failure, wrong, blame, clear, send, show }
}

/** The path of the field of which a refusal tells: its reason ends in "at `$.path`". */
function blamedBy(refused: Refused): string | null {
  const reason = String(refused.details.reason ?? "")
  return /at `\$\.([^`]+)`$/.exec(reason)?.[1] ?? /unknown field `(\w+)`$/.exec(reason)?.[1] ?? null
}

function withoutPath(message: string): string {
  return message.replace(/ - at `\$[^`]*`$/, "")
}
