import { kept } from "../shared/kept"

/** Whether this person wants a sound, and desktop notifications. */
export const sound = kept("sound", true)
export const notify = kept("notify", false)

const MELODY = { connected: [660, 880], ended: [520, 390], due: [740] }

let context: AudioContext | undefined

/**
 * Of several tabs one is loud, so that nothing is heard twice: the one that was touched last, for a browser plays
 * nothing in a page that was not touched. Where the browser has no locks, each is.
 */
let loud = navigator.locks === undefined
let waiting = false

function hold(): Promise<never> {
  loud = true
  return new Promise(() => {}) // until the tab is closed, or another takes it
}

function lost(): void {
  loud = false
  if (waiting) return
  waiting = true
  const next = navigator.locks.request("dialdesk:loud", () => {
    waiting = false
    return hold()
  })
  next.catch(lost)
}

if (!loud) {
  lost()
  for (const touched of ["pointerdown", "keydown"])
    addEventListener(touched, () => {
      if (!loud) navigator.locks.request("dialdesk:loud", { steal: true }, hold).catch(lost)
    })
}

/** Play what happened. A browser that has not seen a click yet stays silent. */
export function play(what: keyof typeof MELODY): void {
  if (!sound.value || !loud) return
  context ??= new AudioContext()
  if (context.state === "suspended") return void context.resume()
  for (const [place, pitch] of MELODY[what].entries()) {
    const tone = new OscillatorNode(context, { frequency: pitch })
    const volume = new GainNode(context, { gain: 0 })
    const begin = context.currentTime + place * 0.16
    volume.gain.setValueAtTime(0, begin)
    volume.gain.linearRampToValueAtTime(0.12, begin + 0.02)
    volume.gain.exponentialRampToValueAtTime(0.001, begin + 0.15)
    tone.connect(volume).connect(context.destination)
    tone.start(begin)
    tone.stop(begin + 0.16)
  }
}

/** Tell it on the desktop, where the person looks at something else; a click brings the page back. */
export function tell(text: string, tag: string): void {
  if (!notify.value || !loud || (!document.hidden && document.hasFocus())) return
  if (!("Notification" in window) || Notification.permission !== "granted") return
  const options = { body: text, tag, icon: "/icon.svg", renotify: true } // the end is told where the beginning still stands
  const shown = new Notification("Dialdesk", options)
  shown.onclick = () => {
    window.focus()
    shown.close()
  }
}
