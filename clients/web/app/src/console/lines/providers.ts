import type { Form, LineView, Session } from "@dialdesk/sdk"
import { onMounted, type ShallowRef, shallowRef, watch } from "vue"
import { complain } from "../../shared/complain"
import { language } from "../../shared/language"

export const VENDORS: LineView["providerType"][] = ["aliyun", "tencent", "ronglian", "tianrun", "infinity", "custom"]

/** What each provider asks for, in the language spoken; empty until it is told. Needs lines.manage. */
export function useProviders(session: Session): ShallowRef<Form[]> {
  const providers = shallowRef<Form[]>([])

  async function read(): Promise<void> {
    try {
      providers.value = (await session.ask("GET /api/v1/calls/lines/providers")).providers
    } catch (error) {
      complain(error)
    }
  }

  onMounted(read)
  watch(language, read, { flush: "post" })
  return providers
}
