/** What is done to a channel, asked for first; each tells whether it was done. */

import type { ListedChannel, Session } from "@dialdesk/sdk"
import { complain } from "../../shared/complain"
import { i18n } from "../../shared/language"
import { sure, told } from "../ask"
import { STATES } from "./status"

const { t } = i18n.global

export async function turned(session: Session, channel: ListedChannel, status: 0 | 1 | 2): Promise<boolean> {
  const word = t(`console.status.${STATES[status]}`)
  const text = t("channels.turnSure", { name: channel.channel_name, status: word })
  if (!(await sure({ title: t("channels.confirm"), text, act: word }))) return false
  const path = { channel_id: channel.channel_id }
  return done(session.ask("PUT /api/v1/channel/infinity/{channel_id}/status", { path, body: { status } }))
}

export async function removed(session: Session, channelId: string): Promise<boolean> {
  const text = t("channels.removeSure")
  if (!(await sure({ title: t("channels.remove"), text, act: t("console.remove"), grave: true }))) return false
  return done(session.ask("DELETE /api/v1/channel/infinity/{channel_id}", { path: { channel_id: channelId } }))
}

async function done(asked: Promise<{ message: string }>): Promise<boolean> {
  try {
    told((await asked).message)
    return true
  } catch (error) {
    complain(error)
    return false
  }
}
