/** A part of the address as it was before it was put there; null where that was clipped or written by hand. */
export function decoded(part: string): string | null {
  try {
    return decodeURIComponent(part)
  } catch {
    return null // "%" without its digits: nothing of ours
  }
}
