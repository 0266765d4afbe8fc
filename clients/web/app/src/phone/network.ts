import { onScopeDispose, type Ref, ref } from "vue"

/** Whether the handset has a network at all; whether the server is reached by it, only asking tells. */
export function useNetwork(): Ref<boolean> {
  const network = ref(navigator.onLine)
  const look = () => {
    network.value = navigator.onLine
  }
  const kinds = ["online", "offline"]
  for (const kind of kinds) addEventListener(kind, look)
  onScopeDispose(() => {
    for (const kind of kinds) removeEventListener(kind, look)
  })
  return network
}
