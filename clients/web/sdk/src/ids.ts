/** An id that is unique per sender: what makes a repeat a repeat. */
export function newId(): string {
  const octets = crypto.getRandomValues(new Uint8Array(12)) // randomUUID is missing where a page is not secure
  return `msg_${Array.from(octets, (octet) => octet.toString(16).padStart(2, "0")).join("")}`
}
