import { ElMessage } from "./element"
import { said } from "./failure"

/** Tell the person what went wrong, where the page has no better place for it. */
export function complain(error: unknown): void {
  ElMessage.error({ message: said(error), showClose: true, duration: 8000 })
}
