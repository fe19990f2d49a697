// What is asked of the service.

export class Refused extends Error {
  constructor(status, message, said = {}) {
    super(message);
    this.status = status;
    this.line = said.line;
    this.column = said.column;
  }
}

export async function ask(path, options = {}) {
  let answer;
  try {
    answer = await fetch(path, { headers: { Accept: "application/json" }, ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The service can't be reached.");
  }
  let said;
  try {
    said = await answer.json();
  } catch {
    throw new Refused(answer.status, "The service's answer can't be read.");
  }
  if (!answer.ok) throw new Refused(answer.status, said.error || `The service answered ${answer.status}.`, said);
  return said;
}

export function upload(file) {
  const type = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  return ask("/api/images", { method: "POST", body: file, headers: { "Content-Type": type } });
}

export const itemAddress = (id) => `/items/${id.split("/").map(encodeURIComponent).join("/")}`;
export const sized = (picture, size) => `${picture}?size=${size}`;
export const number = (value) => Number(value).toLocaleString("en");
export const score = (value) => (value == null ? "" : value.toFixed(3));
export const when = (time) =>
  new Date(time).toLocaleString("en", { dateStyle: "medium", timeStyle: "short", timeZone: "UTC" }) + " UTC";
