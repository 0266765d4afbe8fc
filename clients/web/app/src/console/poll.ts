import { onBeforeUnmount, onMounted, type Ref, ref } from "vue"
import { said } from "../shared/failure"

/**
 * Ask again and again, `every` milliseconds (which the answer may decide) after the last answer, while the page is seen. `failure` says why the last
 * answer did not come; what was shown before stays, and asking goes on.
 */
export function usePoll(
  ask: () => Promise<void>,
  every: number | (() => number),
): { failure: Ref<string>; again: () => void } {
  const failure = ref("")
  let timer: ReturnType<typeof setTimeout> | undefined
  let rounds = 0

  async function round(): Promise<void> {
    const mine = ++rounds
    clearTimeout(timer)
    try {
      await ask()
      if (mine === rounds) failure.value = ""
    } catch (error) {
      if (mine === rounds) failure.value = said(error)
    }
    if (mine === rounds && !document.hidden) {
      timer = setTimeout(again, typeof every === "number" ? every : every())
    }
  }

  function again(): void {
    void round()
  }

  function seen(): void {
    if (!document.hidden) again()
  }

  onMounted(() => {
    document.addEventListener("visibilitychange", seen)
    again()
  })
  onBeforeUnmount(() => {
    document.removeEventListener("visibilitychange", seen)
    clearTimeout(timer)
    rounds = -1
  })
  return { failure, again }
}
