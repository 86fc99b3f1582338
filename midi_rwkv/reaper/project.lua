-- @description midi-rwkv: fill the selected MIDI items, or the time selection on the selected tracks, as new takes
-- @about
--   midi-rwkv (https://github.com/midi-rwkv/midi-rwkv) reads the whole project and writes new notes into what is selected.
--   Each candidate is a new take; what stood there stays in its own. For REAPER 7.
--   `midi-rwkv reaper` makes it of two parts: what stands in the project, and the fill. This is its first part.
--   Ticks are 1/960 of a quarter note from the start of the project; a span is {from, to} in ticks, half-open.

local PYTHON = "python3" -- the Python that has midi-rwkv; `midi-rwkv reaper` writes its path here
local R = reaper
local PPQ = 960
local NEAR = 2 -- ticks: an edge this near to a beat is on it
local project -- the one that is read

-- Ends the script with one line for the user.
local function refuse(text, ...) error({ said = text:format(...) }, 0) end

local function round(x) return math.floor(x + 0.5) end
local function ticks_at(seconds) return round(R.TimeMap_timeToQN_abs(project, seconds) * PPQ) end
local function seconds_at(tick) return R.TimeMap_QNToTime_abs(project, tick / PPQ) end

local function take_of(item) -- the active take, if it is MIDI
  local take = R.GetActiveTake(item)
  return take and R.TakeIsMIDI(take) and take or nil
end

local function extent(item)
  local position = R.GetMediaItemInfo_Value(item, "D_POSITION")
  return { ticks_at(position), ticks_at(position + R.GetMediaItemInfo_Value(item, "D_LENGTH")) }
end

-- What is to be filled: {track, span, item, take} each; the latter two are missing where an item has to be made.
local function selected()
  local targets = {}
  local from, to = R.GetSet_LoopTimeRange2(project, false, false, 0, 0, false)
  local chosen = to > from and { ticks_at(from), ticks_at(to) }
  local function add(item, within)
    local take, span = take_of(item), extent(item)
    if within then span = { math.max(span[1], within[1]), math.min(span[2], within[2]) } end
    if not take or span[2] <= span[1] then return end
    targets[#targets + 1] = { track = R.GetMediaItem_Track(item), span = span, item = item, take = take }
  end
  for _, within in ipairs({ chosen, false }) do -- items, as far as the time selection reaches, if it reaches any
    for i = 0, R.CountSelectedMediaItems(project) - 1 do add(R.GetSelectedMediaItem(project, i), within) end
    if #targets > 0 then return targets end
  end
  for t = 0, chosen and R.CountSelectedTracks(project) - 1 or -1 do
    local track, before = R.GetSelectedTrack(project, t), #targets
    for i = 0, R.CountTrackMediaItems(track) - 1 do add(R.GetTrackMediaItem(track, i), chosen) end
    if #targets == before then targets[before + 1] = { track = track, span = chosen } end
  end
  if #targets == 0 then refuse("Select MIDI items, or tracks and a time selection; then run midi-rwkv again.") end
  return targets
end

-- The measures up to the one that holds a tick: {start, stop, num, den} each.
local function read_measures(last)
  local measures, start = {}, 0
  while start <= last do
    local _, _, _, num, den = R.TimeMap_GetMeasureInfo(project, #measures)
    local stop = ticks_at((R.TimeMap_GetMeasureInfo(project, #measures + 1)))
    measures[#measures + 1] = { start = start, stop = stop, num = round(num), den = round(den) }
    if den & (den - 1) ~= 0 then refuse("Measure %d has the metre %d/%d, which no MIDI file can have.", #measures, num, den) end
    start = stop
  end
  return measures
end

-- A span as `--bars` takes it, from its first beat to its last; the span of these beats; the measure of the last.
local function bars_of(measures, span)
  local a, b = 1, 1
  while measures[a].stop <= span[1] + NEAR do a = a + 1 end
  while measures[b].stop < span[2] - NEAR do b = b + 1 end
  local low, high = measures[a], measures[b]
  local first_beat, last_beat = 4 * PPQ // low.den, 4 * PPQ // high.den -- ticks
  local from = (span[1] + NEAR - low.start) // first_beat
  local to = -((high.start - span[2] + NEAR) // last_beat)
  local stop = math.min(high.start + to * last_beat, high.stop)
  local is_pickup = measures[2] and measures[1].stop < measures[2].stop - measures[2].start -- then it is bar 0
  local first, last = is_pickup and a - 1 or a, is_pickup and b - 1 or b
  local is_whole = from == 0 and stop == high.stop
  local text = is_whole and ("%d-%d"):format(first, last) or ("%d.%d-%d.%d"):format(first, from + 1, last, to)
  return text, { low.start + from * first_beat, stop }, b
end

-- Adds the notes of a take that sound, at their places in the project, those of a looped source as often as it is heard.
local function add_notes(notes, item, take, is_target)
  local span, loop, turns = extent(item), 0, 1
  local length, in_quarters = R.GetMediaSourceLength(R.GetMediaItemTake_Source(take))
  if R.GetMediaItemInfo_Value(item, "B_LOOPSRC") == 1 and in_quarters and length > 0 then
    local quarter = R.MIDI_GetPPQPosFromProjQN(take, 1) - R.MIDI_GetPPQPosFromProjQN(take, 0) -- of the project, in the source
    loop = round(length * quarter / R.GetMediaItemTakeInfo_Value(take, "D_PLAYRATE"))
    turns = math.max(1, math.ceil(R.MIDI_GetPPQPosFromProjTime(take, seconds_at(span[2])) / loop - 0.001))
  end
  if is_target and turns > 1 then refuse("%q repeats its MIDI; glue it first (Item: Glue items).", R.GetTakeName(take)) end
  local _, count = R.MIDI_CountEvts(take)
  for index = 0, count - 1 do
    local _, _, muted, from, to, channel, pitch, velocity = R.MIDI_GetNote(take, index)
    for turn = 0, (muted or turns > 1 and from >= loop) and -1 or turns - 1 do
      if turns > 1 then to = math.min(to, loop) end
      local on = ticks_at(R.MIDI_GetProjTimeFromPPQPos(take, from + turn * loop))
      local off = math.min(ticks_at(R.MIDI_GetProjTimeFromPPQPos(take, to + turn * loop)), span[2])
      if on >= span[1] and off > on then
        local note = { on = on, off = off, pitch = pitch, velocity = velocity, channel = channel, take = take, index = index }
        notes[#notes + 1] = note
      end
    end
  end
end

-- Ends each note where the next of its pitch begins, as in a MIDI file. One that begins with another becomes its `twin`.
local function untangled(notes)
  table.sort(notes, function(a, b) return a.on < b.on or a.on == b.on and a.off > b.off end)
  local kept, sounding = {}, {}
  for _, note in ipairs(notes) do
    local before = sounding[note.pitch]
    if before and before.on == note.on then
      note.twin, before.twin = before.twin, note
    else
      if before then before.off = math.min(before.off, note.on) end
      sounding[note.pitch], kept[#kept + 1] = note, note
    end
  end
  return kept
end

-- The first program change of a take, or nil.
local function program_of(take)
  for index = 0, select(3, R.MIDI_CountEvts(take)) - 1 do
    local _, _, _, _, message, _, program = R.MIDI_GetCC(take, index)
    if message == 0xC0 then return program end
  end
end

-- The project's tracks that have notes or a target, those without notes last: {number, name, program, notes, at} each, of
-- which `at` is the number in the list. Also how many have notes. Each target gets its track as `part`.
local function read_tracks(targets)
  local parts, of_track, wanted = {}, {}, {}
  for _, target in ipairs(targets) do wanted[target.item or target.track] = true end
  local function list(part)
    parts[#parts + 1], part.at = part, #parts + 1
    return part
  end
  for t = 0, R.CountTracks(project) - 1 do
    local track, notes, program = R.GetTrack(project, t), {}, nil
    for i = 0, R.CountTrackMediaItems(track) - 1 do
      local item = R.GetTrackMediaItem(track, i)
      local take = take_of(item)
      if take and (wanted[item] or R.GetMediaItemInfo_Value(item, "B_MUTE") == 0) then
        add_notes(notes, item, take, wanted[item])
        program = program or program_of(take)
      end
    end
    local _, name = R.GetTrackName(track)
    of_track[track] = { number = t + 1, name = name, program = program, notes = untangled(notes) }
    if #notes > 0 then list(of_track[track]) end
  end
  local count = #parts
  for _, target in ipairs(targets) do
    target.part = of_track[target.track]
    if not target.part.at then list(target.part) end
  end
  return parts, count
end

local function variable_length(value)
  local bytes = string.char(value & 0x7F)
  while value > 0x7F do
    value = value >> 7
    bytes = string.char(value & 0x7F | 0x80) .. bytes
  end
  return bytes
end

local function meta(tick, rank, kind, data) return { tick, rank, "\xFF" .. string.char(kind) .. variable_length(#data) .. data } end

-- A track chunk of events {tick, rank, message}; at one tick, the lower rank comes first.
local function chunk(events)
  table.sort(events, function(a, b) return a[1] < b[1] or a[1] == b[1] and a[2] < b[2] end)
  local bytes, now = {}, 0
  for i, event in ipairs(events) do
    bytes[i] = variable_length(event[1] - now) .. event[3]
    now = event[1]
  end
  return "MTrk" .. string.pack(">s4", table.concat(bytes) .. "\0\xFF\x2F\0")
end

-- The tempo where it changes, and at every quarter note of a gradual change.
local function tempo_events()
  local ticks, events, count = { 0 }, {}, R.CountTempoTimeSigMarkers(project)
  for i = 0, count - 1 do
    local _, time, _, _, _, _, _, is_gradual = R.GetTempoTimeSigMarker(project, i)
    local tick, till = ticks_at(time), i + 1 < count and ticks_at(select(2, R.GetTempoTimeSigMarker(project, i + 1))) or 0
    for at = tick, is_gradual and math.max(tick, till - 1) or tick, PPQ do
      if at > ticks[#ticks] then ticks[#ticks + 1] = at end
    end
  end
  for i, tick in ipairs(ticks) do
    local next_tick = ticks[i + 1] or tick + PPQ
    local quarter = (seconds_at(next_tick) - seconds_at(tick)) * PPQ / (next_tick - tick) * 1e6 -- microseconds
    events[i] = meta(tick, 0, 0x51, string.pack(">I3", math.max(1, math.min(0xFFFFFF, round(quarter)))))
  end
  return events
end

-- The project as a MIDI file. The metre is repeated at measure `reach`, so that the file has all bars up to there.
local function midi_file(parts, count, measures, reach)
  local head, before = tempo_events(), nil
  for i, m in ipairs(measures) do
    local goes_on = before and before.num == m.num and before.den == m.den and m.start - before.start == 4 * PPQ * m.num // m.den
    if i == reach or not goes_on then
      head[#head + 1] = meta(m.start, 1, 0x58, string.char(m.num, round(math.log(m.den, 2)), 24, 8))
    end
    before = m
  end
  local chunks, channels = { chunk(head) }, math.max(1, 15 - (#parts - count)) -- the others are for tracks to be added
  for i = 1, count do
    local channel = (i - 1) % channels
    channel = channel < 9 and channel or channel + 1 -- 9 is for drums; whether these are some is told beside the file
    local events = { meta(0, 0, 3, parts[i].name) }
    if parts[i].program then events[2] = { 0, 1, string.char(0xC0 | channel, parts[i].program) } end
    for _, n in ipairs(parts[i].notes) do
      events[#events + 1] = { n.off, 2, string.char(0x80 | channel, n.pitch, 0) }
      events[#events + 1] = { n.on, 3, string.char(0x90 | channel, n.pitch, n.velocity) }
    end
    chunks[i + 1] = chunk(events)
  end
  return string.pack(">c4I4I2I2I2", "MThd", 6, 1, #chunks, PPQ) .. table.concat(chunks)
end
