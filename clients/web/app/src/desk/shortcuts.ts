/** What keys do at the desk; the list that `?` shows is made of this table. Held with Alt, they work in fields too. */
export const SHORTCUTS = [
  { what: "search", keys: ["/"], focus: "#search" },
  { what: "choose", keys: ["↑", "↓", "Enter"] },
  { what: "lists", keys: ["Alt", "1 – 4"] },
  { what: "call", keys: ["Alt", "C"], code: "KeyC", click: "[data-call]" },
  { what: "pad", keys: ["Alt", "P"], code: "KeyP", focus: ".pad input" },
  { what: "hangUp", keys: ["Alt", "H"], code: "KeyH", click: "[data-hang-up]" },
  { what: "mute", keys: ["Alt", "M"], code: "KeyM", click: "[data-mute]" },
  { what: "save", keys: ["Ctrl", "Enter"] },
  { what: "settings", keys: ["Alt", "O"], code: "KeyO", click: "[data-device]" },
  { what: "help", keys: ["?"], click: "[data-help]" },
] as const

type Shortcut = { keys: readonly string[]; code?: string; focus?: string; click?: string }

/** Do what a pressed key stands for; nothing where it stands for nothing now. */
export function press(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || document.querySelector(".el-overlay:not([style*='display: none'])")) return
  const typing = (event.target as HTMLElement).closest("input, textarea, [contenteditable]")
  const list = event.altKey ? /^Digit([1-4])$/.exec(event.code)?.[1] : undefined
  const meant = (SHORTCUTS as readonly Shortcut[]).find((one) =>
    one.code ? event.altKey && event.code === one.code : !event.altKey && !typing && event.key === one.keys[0],
  )
  if (list) act(event, document.querySelectorAll<HTMLElement>("[data-tab]")[Number(list) - 1])
  else if (meant?.focus) act(event, document.querySelector<HTMLElement>(meant.focus), "focus")
  else if (meant?.click) act(event, document.querySelector<HTMLElement>(`${meant.click}:not(:disabled)`))
}

function act(event: KeyboardEvent, on: HTMLElement | null | undefined, what: "click" | "focus" = "click"): void {
  if (!on) return
  event.preventDefault()
  on[what]()
}
