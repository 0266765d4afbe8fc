/** The ring tone and the tremble of a call to be dialled. A browser that has not been touched yet does neither. */

import { ref } from "vue"

/** Whether the page has been touched since it was opened, and so may ring. */
export const audible = ref(navigator.userActivation?.hasBeenActive ?? false)

let context: AudioContext | undefined
let ringing: ReturnType<typeof setInterval> | undefined

/** To be called from a touch: from then on the page may ring. */
export function allow(): void {
  context ??= new AudioContext()
  void context.resume()
  audible.value = true
}

export function ring(): void {
  hush()
  once()
  ringing = setInterval(once, 2000)
}

export function hush(): void {
  clearInterval(ringing)
  ringing = undefined
  tremble(0)
}

function tremble(pattern: number | number[]): void {
  if (navigator.userActivation?.hasBeenActive) navigator.vibrate?.(pattern)
}

function once(): void {
  tremble([300, 150, 300])
  if (context?.state !== "running") return
  for (const [place, pitch] of [784, 988, 784, 988].entries()) {
    const tone = new OscillatorNode(context, { frequency: pitch })
    const volume = new GainNode(context, { gain: 0.15 })
    tone.connect(volume).connect(context.destination)
    tone.start(context.currentTime + place * 0.15)
    tone.stop(context.currentTime + place * 0.15 + 0.13)
  }
}
