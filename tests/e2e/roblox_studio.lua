-- As much of Roblox's engine as the Luau of docs/connect-your-group.md uses, with a clock that `advance` turns.
-- `ask(method, url, headers)` answers status, headers and body, or raises; `decode` and `guid` are JSON's and a UUID's.
local ask, decode, guid, place, secrets = ...

local clock, began = 0, os.time() - 7200 -- what is logged here ended in the past
os.clock = function()
	return clock
end
os.time = function()
	return began + math.floor(clock)
end

local sleeping = {}

local function resume(thread, ...)
	local well, seconds = coroutine.resume(thread, ...)
	assert(well, seconds)
	if coroutine.status(thread) ~= "dead" then
		table.insert(sleeping, { thread = thread, at = clock + seconds })
	end
end

task = {
	spawn = function(work, ...)
		resume(coroutine.create(work), ...)
	end,
	wait = function(seconds)
		coroutine.yield(seconds)
	end,
}

warnings = {}
function warn(...)
	local said = {}
	for _, one in ipairs({ ... }) do
		table.insert(said, tostring(one))
	end
	table.insert(warnings, table.concat(said, " "))
end

-- Lets this much time go by, and whatever waits for a moment in it go on.
function advance(seconds)
	local till = clock + seconds
	while true do
		local first = nil
		for index, one in ipairs(sleeping) do
			if one.at <= till and (first == nil or one.at < sleeping[first].at) then
				first = index
			end
		end
		if first == nil then
			break
		end
		local one = table.remove(sleeping, first)
		clock = one.at
		resume(one.thread)
	end
	clock = till
end

local function event()
	local handlers = {}
	return {
		Connect = function(_, handler)
			table.insert(handlers, handler)
		end,
		fire = function(...)
			for _, handler in ipairs(handlers) do
				task.spawn(handler, ...)
			end
		end,
	}
end

local HttpService = {
	GetSecret = function(_, name)
		local secret = assert(secrets[name], "Can't find secret with given key")
		return {
			AddPrefix = function(_, prefix)
				return { sent = prefix .. secret }
			end,
		}
	end,
	GenerateGUID = function()
		return guid()
	end,
	JSONDecode = function(_, text)
		return decode(text)
	end,
	RequestAsync = function(_, options)
		local headers = { ["Roblox-Id"] = tostring(place) }
		for name, value in pairs(options.Headers) do
			headers[name] = type(value) == "table" and value.sent or value
		end
		local status, answered, body = ask(options.Method, options.Url, headers)
		return { StatusCode = status, Headers = answered, Body = body, Success = status < 300 }
	end,
}

local present = {}
local Players = {
	PlayerAdded = event(),
	PlayerRemoving = event(),
	GetPlayers = function()
		return present
	end,
}

local closing = nil
game = {
	JobId = "",
	PlaceId = place,
	GetService = function(_, name)
		return ({ HttpService = HttpService, Players = Players })[name]
	end,
	BindToClose = function(_, work)
		closing = work
	end,
}

local modules = {}
script = { Parent = setmetatable({}, { __index = function(_, name) return name end }) }
function require(name)
	return modules[name]
end

function run_module(name, code)
	modules[name] = assert(loadstring(code, name))()
	return modules[name]
end

function run_script(code)
	assert(loadstring(code, "script"))()
end

function join(user)
	local player = { UserId = user, Parent = Players, attributes = {} }
	function player:SetAttribute(name, value)
		self.attributes[name] = value
	end
	function player:Kick(reason)
		self.kicked = reason
		quit(self)
	end
	table.insert(present, player)
	Players.PlayerAdded.fire(player)
	return player
end

function quit(player)
	for index, one in ipairs(present) do
		if one == player then
			table.remove(present, index)
		end
	end
	Players.PlayerRemoving.fire(player)
	player.Parent = nil
end

function close()
	task.spawn(closing)
	advance(30)
end
