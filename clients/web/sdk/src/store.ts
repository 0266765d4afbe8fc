/** What a phone must not forget, as entries by key; pages keep them in IndexedDB. */

import { newId } from "./ids.js"

/** `write` resolves when all of its changes are kept, or rejects when none is; undefined removes an entry. */
export interface Store {
  /** What names it among the stores of this browser. */
  readonly name: string
  load(): Promise<Map<string, unknown>>
  write(changes: ReadonlyMap<string, unknown>): Promise<void>
}

/** Kept as long as this object. */
export class MemoryStore implements Store {
  readonly #entries = new Map<string, unknown>()

  constructor(readonly name = newId()) {}

  async load(): Promise<Map<string, unknown>> {
    return structuredClone(this.#entries)
  }

  async write(changes: ReadonlyMap<string, unknown>): Promise<void> {
    for (const [key, value] of structuredClone(changes)) {
      if (value === undefined) this.#entries.delete(key)
      else this.#entries.set(key, value)
    }
  }
}

const ENTRIES = "entries"

/** Kept by the browser, across reloads; files too. */
export class IndexedDbStore implements Store {
  #database: Promise<IDBDatabase> | null = null

  constructor(readonly name: string) {}

  async load(): Promise<Map<string, unknown>> {
    const entries = (await this.#open()).transaction(ENTRIES).objectStore(ENTRIES)
    const [keys, values] = await Promise.all([told(entries.getAllKeys()), told(entries.getAll())])
    return new Map(keys.map((key, at) => [String(key), values[at]]))
  }

  async write(changes: ReadonlyMap<string, unknown>): Promise<void> {
    const transaction = (await this.#open()).transaction(ENTRIES, "readwrite", { durability: "strict" })
    const entries = transaction.objectStore(ENTRIES)
    try {
      for (const [key, value] of changes) {
        if (value === undefined) entries.delete(key)
        else entries.put(value, key)
      }
    } catch (error) {
      transaction.abort() // what cannot be cloned is not asked for, and what was asked before would be kept
      throw error
    }
    await new Promise<void>((resolve, reject) => {
      transaction.oncomplete = () => resolve()
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser kept nothing"))
    })
  }

  #open(): Promise<IDBDatabase> {
    this.#database ??= this.#opened().catch((error: unknown) => {
      this.#database = null // so that the next use tries again
      throw error
    })
    return this.#database
  }

  async #opened(): Promise<IDBDatabase> {
    const request = indexedDB.open(this.name, 1)
    request.onupgradeneeded = () => request.result.createObjectStore(ENTRIES)
    const database = await told(request)
    database.onclose = () => {
      this.#database = null
    }
    database.onversionchange = () => {
      database.close()
      this.#database = null
    }
    return database
  }
}

function told<T>(request: IDBRequest<T>): Promise<T> {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result)
    request.onerror = () => reject(request.error ?? new Error("the browser's database failed"))
  })
}
