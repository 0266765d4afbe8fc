/** A phone's recordings on their way: one at a time, again and again until the server has them. */

import { ask } from "./api.js"
import { Refused, Stopped, Unreachable } from "./failures.js"
import type { UploadAnswer } from "./generated.js"
import type { Memory, RecordingRecord } from "./memory.js"
import { fullJitter, type Timing } from "./timing.js"

/** Bytes a second: a file that moves slower than this is given up, to be tried again. */
const SLOWEST = 32 * 1024

const MEDIA_TYPES: readonly [RegExp, string][] = [
  [/^RIFF....WAVE/s, "audio/wav"],
  [/^OggS/, "audio/ogg"],
  [/^#!AMR\n/, "audio/amr"],
  [/^#!AMR-WB\n/, "audio/amr-wb"],
  [/^....ftyp3g/s, "audio/3gpp"],
  [/^....ftyp/s, "audio/mp4"],
  [/^\xff[\xf0\xf1\xf8\xf9]/, "audio/aac"],
  [/^(?:ID3|\xff[\xe2\xe3\xf2\xf3\xfa\xfb])/, "audio/mpeg"],
]

export class Uploads {
  #running = false
  #closed = new AbortController()

  /**
   * `settle` writes down that a recording was brought, or with a code that it never will be. A recording is due when
   * what was reported of its call is acknowledged.
   */
  constructor(
    private readonly memory: () => Memory,
    private readonly timing: Timing,
    private readonly credentials: () => Record<string, string>,
    private readonly settle: (callId: string, code: string | null) => Promise<void>,
    private readonly begun: (recording: RecordingRecord) => Promise<void>,
  ) {}

  /** Bring what is due, the oldest first. */
  look(): void {
    if (this.#running || this.#next() === undefined || this.#closed.signal.aborted) return
    this.#running = true
    void this.#run().finally(() => {
      this.#running = false
    })
  }

  /** End what is under way. */
  close(): void {
    this.#closed.abort()
  }

  #next(): RecordingRecord | undefined {
    const unsettled = new Set([...this.memory().unacked.values()].map((report) => report.callId))
    return [...this.memory().recordings.values()].find((recording) => !unsettled.has(recording.callId))
  }

  async #run(): Promise<void> {
    let failures = 0
    let recording = this.#next()
    while (recording !== undefined && !this.#closed.signal.aborted) {
      try {
        await this.#bring(recording)
        await this.settle(recording.callId, null)
        failures = 0
      } catch (error) {
        if (this.#closed.signal.aborted || error instanceof Stopped) return // Stopped: the phone is bound no more
        if (error instanceof Refused && ofThePhone(error)) return // its connection learns of it too
        if (unreadable(error)) await this.settle(recording.callId, "RECORDING_MISSING")
        else if (error instanceof Refused && !error.retry) await this.settle(recording.callId, error.code)
        else if (error instanceof Refused || error instanceof Unreachable) await this.#pause(failures++)
        else throw error
      }
      recording = this.#next()
    }
  }

  #pause(failures: number): Promise<void> {
    return new Promise((resolve) => {
      setTimeout(resolve, fullJitter(failures, this.timing))
    })
  }

  async #bring(recording: RecordingRecord): Promise<void> {
    const { file, callId } = recording
    const sha256 = await digest(file)
    if (file.size > this.timing.uploadWhole && sha256 !== null) return this.#bringInParts(recording, sha256)
    const form = new FormData()
    form.append("callId", callId)
    form.append("file", file.slice(0, file.size, await mediaType(file)), "recording")
    const asked = this.#asked(file.size, sha256 === null ? {} : { "X-Content-SHA256": sha256 })
    await ask(this.#origin, "POST /api/v1/calls/mobile/recording/upload", { ...asked, body: form })
  }

  /** Send what has not arrived yet of an upload, or of a new one, and complete it. */
  async #bringInParts(recording: RecordingRecord, sha256: string): Promise<void> {
    let uploadId = recording.uploadId
    try {
      const upload = await this.#upload(recording, sha256)
      if (upload.stored || upload.uploadId === null) return
      if (uploadId === undefined) await this.begun({ ...recording, uploadId: upload.uploadId })
      uploadId = upload.uploadId
      let start = 0
      for (const part of upload.parts) {
        const body = recording.file.slice(start, start + part.size, "application/octet-stream")
        const path = { upload_id: uploadId, number: String(part.number) }
        start += part.size
        if (part.arrived) continue
        const asked = { ...this.#asked(part.size), path, body }
        await ask(this.#origin, "PUT /api/v1/calls/mobile/recording/uploads/{upload_id}/parts/{number}", asked)
      }
      const asked = { ...this.#asked(recording.file.size), path: { upload_id: uploadId } }
      await ask(this.#origin, "POST /api/v1/calls/mobile/recording/uploads/{upload_id}/complete", asked)
    } catch (error) {
      if (!(error instanceof Refused)) throw error
      const over = (error.code === "NOT_FOUND" || error.code === "CHECKSUM_MISMATCH") && uploadId !== undefined
      if (over) {
        const { uploadId: _, ...anew } = recording
        await this.begun(anew)
      }
      if (over || error.code === "UPLOAD_INCOMPLETE") throw new Refused(error.code, error.message, true, error.status)
      throw error
    }
  }

  #upload({ uploadId, callId, file }: RecordingRecord, sha256: string): Promise<UploadAnswer> {
    const asked = this.#asked(0)
    if (uploadId !== undefined) {
      const path = { upload_id: uploadId }
      return ask(this.#origin, "GET /api/v1/calls/mobile/recording/uploads/{upload_id}", { ...asked, path })
    }
    return mediaType(file).then((type) => {
      const body = { callId, size: file.size, sha256, mediaType: type }
      return ask(this.#origin, "POST /api/v1/calls/mobile/recording/uploads", { ...asked, body })
    })
  }

  get #origin(): string {
    return this.memory().binding?.origin ?? ""
  }

  #asked(size: number, more: Record<string, string> = {}) {
    const timeout = this.timing.timeout + (size / SLOWEST) * 1000
    return { headers: { ...this.credentials(), ...more }, timeout, signal: this.#closed.signal }
  }
}

/** Whether it is the phone that is not let in now: that says nothing of a recording, which stays. */
function ofThePhone({ status, code }: Refused): boolean {
  return status === 401 || code === "TENANT_SUSPENDED"
}

/** Whether the browser has lost the file. */
function unreadable(error: unknown): boolean {
  return error instanceof DOMException && (error.name === "NotReadableError" || error.name === "NotFoundError")
}

/** The SHA-256 in lower case; null where the page is not secure and so has no digests. */
async function digest(file: Blob): Promise<string | null> {
  if (globalThis.crypto?.subtle === undefined) return null
  const octets = new Uint8Array(await crypto.subtle.digest("SHA-256", await file.arrayBuffer()))
  return Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("")
}

/** What audio it is, by how the file begins. */
async function mediaType(file: Blob): Promise<string> {
  const head = String.fromCharCode(...new Uint8Array(await file.slice(0, 16).arrayBuffer()))
  return MEDIA_TYPES.find(([beginning]) => beginning.test(head))?.[1] ?? "application/octet-stream"
}
