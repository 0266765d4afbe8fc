/** Whom to tell. */

export type Listener<Told extends unknown[]> = (...told: Told) => void

/** Tells listeners, in the order in which they came. One that throws harms neither the others nor the teller. */
export class Topic<Told extends unknown[]> {
  readonly #listeners = new Set<Listener<Told>>()

  /** Tell this listener from now on. Returns what ends it. */
  add(listener: Listener<Told>): () => void {
    const own: Listener<Told> = (...told) => listener(...told) // so that one function may listen twice
    this.#listeners.add(own)
    return () => {
      this.#listeners.delete(own)
    }
  }

  tell(...told: Told): void {
    for (const listener of [...this.#listeners]) {
      try {
        listener(...told)
      } catch (error) {
        report(error)
      }
    }
  }
}

/** Report an error as the platform does one that nobody caught. */
function report(error: unknown): void {
  if (typeof reportError === "function") reportError(error)
  else {
    queueMicrotask(() => {
      throw error
    })
  }
}
