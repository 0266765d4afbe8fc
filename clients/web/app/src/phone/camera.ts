/** Reads QR codes from the camera: by the browser's own reader where it has one, else by jsQR, loaded then. */

type Read = (frame: HTMLVideoElement) => Promise<string | null>

declare class BarcodeDetector {
  static getSupportedFormats(): Promise<string[]>
  constructor(options: { formats: string[] })
  detect(source: HTMLVideoElement): Promise<{ rawValue: string }[]>
}

/** Show the camera in `video` until a code is read or `stop` is aborted. Throws where there is no camera to use. */
export async function scan(video: HTMLVideoElement, stop: AbortSignal): Promise<string | null> {
  const stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" }, audio: false })
  try {
    video.srcObject = stream
    await video.play()
    const read = await reader()
    while (!stop.aborted) {
      const text = await read(video)
      if (text !== null) return text
      await new Promise((next) => setTimeout(next, 120))
    }
    return null
  } finally {
    for (const track of stream.getTracks()) track.stop()
    video.srcObject = null
  }
}

async function reader(): Promise<Read> {
  if ("BarcodeDetector" in globalThis && (await BarcodeDetector.getSupportedFormats()).includes("qr_code")) {
    const detector = new BarcodeDetector({ formats: ["qr_code"] })
    return async (frame) => (await detector.detect(frame))[0]?.rawValue ?? null
  }
  const { default: jsQR } = await import("jsqr")
  const canvas = document.createElement("canvas")
  const context = canvas.getContext("2d", { willReadFrequently: true })
  return async (frame) => {
    if (context === null || frame.videoWidth === 0) return null
    canvas.width = frame.videoWidth
    canvas.height = frame.videoHeight
    context.drawImage(frame, 0, 0)
    const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height)
    return jsQR(data, width, height)?.data ?? null
  }
}
